"""What is told, written down and said of the ranks of a run."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from toolkit.engines.base import StepResult
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.monitoring import MonitoringConfig
from toolkit.specs.recipe import Recipe
from toolkit.training.links import Sent
from toolkit.training.monitor import Monitor
from toolkit.training.own_time import COLUMNS
from toolkit.training.telemetry import Telemetry

FORWARD, LINK, STEP = (COLUMNS.index(name) for name in ("forward_seconds", "link_seconds", "step_seconds"))
BYTES, BACKWARD = COLUMNS.index("link_bytes"), COLUMNS.index("backward_seconds")


def result(heard: tuple[tuple[float, ...], ...] = (), **busy: float) -> StepResult:
    return StepResult(
        2.0, 1.0, 0.5, tokens=100, supervised_tokens=50, loss_scale=1.0, skipped=False, busy_seconds=busy, heard=heard
    )


def told(**given: float) -> tuple[float, ...]:
    values = {"step_seconds": 0.5, "forward_seconds": 0.1, "backward_seconds": 0.2, **given}
    return tuple(values.get(name, 0.0) for name in COLUMNS)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return toolkit.plan("smollm-135m", "2xcpu", seq_len=8, global_batch=8)


@pytest.fixture
def made(folder: RunFolder, engine: Callable[..., Any], plan: Plan) -> Callable[..., Monitor]:
    """A monitor among ranks of these hosts and stages."""

    def make(
        hosts: tuple[str, ...] = ("north", "south"), stages: tuple[int, ...] = (0, 0), *, of: Plan = plan, **config: Any
    ) -> Monitor:
        scripted = engine([])
        answers = iter([list(zip(hosts, stages, range(len(hosts)), strict=True))])
        scripted.gather = lambda value: next(answers)
        telemetry = Telemetry(folder, scripted, num_steps=100)
        return Monitor(folder, scripted, telemetry, plan=of, recipe=recipe_of(of, **config), done=0)

    return make


def recipe_of(plan: Plan, **config: Any) -> Recipe:
    return Recipe(model="smollm-135m", workload=plan.workload, monitoring=MonitoringConfig(**config))


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.ranks.read_text().splitlines()]


def events(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.events.read_text().splitlines()] if folder.events.exists() else []


def hear(monitor: Monitor, steps: range, *ranks: tuple[float, ...]) -> None:
    for step in steps:
        monitor.time.begin()
        monitor.after_step(step, result(ranks if step % 5 == 0 else ()))


def test_a_rank_tells_means_of_the_last_steps_without_the_first_two(made: Callable[..., Monitor]) -> None:
    monitor, asked = made(every_steps=3), []
    for step in range(1, 10):
        monitor.time.begin()
        monitor.time.lap("data")
        asked.append(monitor.tells())
        monitor.time.lap("train_step")
        monitor.after_step(step, result(forward=float(step), optimizer=1.0))
    assert [bool(one) for one in asked] == [False] * 5 + [True] + [False] * 2 + [True]
    assert asked[5][FORWARD] == 4.0  # of steps 3, 4 and 5
    assert asked[8][FORWARD] == 7.0
    assert len(asked[5]) == len(COLUMNS)
    assert asked[5][-1] > 1024**2  # this process


def test_what_was_heard_is_written_down(made: Callable[..., Monitor], folder: RunFolder) -> None:
    hear(made(), range(1, 12), told(), told(forward_seconds=0.11))
    head, first, second = lines(folder)
    assert head == {"step": 0, "hosts": ["north", "south"], "stages": [0, 0]}
    assert (first["step"], second["step"], first["forward_seconds"]) == (4, 9, [0.1, 0.11])
    assert set(COLUMNS) <= first.keys()


def test_a_slow_rank_is_an_event_and_a_warning(
    made: Callable[..., Monitor], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = made()
    hear(monitor, range(1, 51), told(), told(forward_seconds=0.25, step_seconds=0.6))
    (event,) = events(folder)
    known = {"event": "straggler", "step": 25, "rank": 1, "host": "south", "section": "forward", "seconds": 0.25}
    assert known.items() <= event.items()
    assert event["lost"] == pytest.approx(0.15)
    said = " ".join(capsys.readouterr().out.split())
    assert "WARNING: step 25: rank 1 on south is slow: forward takes it 250 ms of a step, 100 ms expected" in said
    assert "25% of the time" in said
    hear(monitor, range(51, 81), told(), told())
    assert events(folder)[-1]["event"] == "straggler over"
    assert len(events(folder)) == 2


def replicated(stage: int) -> Plan:
    """Two replicas of four micro-batches each."""
    layout = {"tp": 1, "sp": 1, "pp": 1, "zero_stage": stage, "micro_batch": 1}
    return toolkit.plan("smollm-135m", "2xcpu", seq_len=8, global_batch=8, **layout)


def test_where_a_slow_rank_could_have_less_to_do_that_is_advised(
    made: Callable[..., Monitor], capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, advised in ((1, True), (2, False)):
        of = replicated(stage)
        hear(made(of=of), range(1, 51), told(), told(forward_seconds=0.25, step_seconds=0.6))
        said = " ".join(capsys.readouterr().out.split())
        assert "rank 1 on south is slow" in said
        assert ("give it fewer micro-batches: monitoring.balance in the recipe" in said) is advised


def test_a_slow_replica_gets_fewer_micro_batches_and_is_slow_still(
    made: Callable[..., Monitor], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = made(of=replicated(1), balance=True)
    assert monitor.counts == (4, 4)
    for step in range(1, 121):
        assert monitor.counts is not None
        passes = (each * count for each, count in zip((0.05, 0.08), monitor.counts, strict=True))
        own = (told(forward_seconds=one, backward_seconds=one, step_seconds=0.7) for one in passes)
        hear(monitor, range(step, step + 1), *own)
    dealt, slow = events(folder)
    assert (dealt["event"], dealt["step"], dealt["micro_batches"], dealt["before"]) == ("shares", 15, [5, 3], [4, 4])
    assert dealt["micro_batch_seconds"] == pytest.approx([0.1, 0.16])
    # What an equal share would take it, not what it takes with three of eight.
    assert (slow["event"], slow["rank"], slow["section"]) == ("straggler", 1, "forward")
    assert slow["seconds"] == pytest.approx(0.32)
    said = " ".join(capsys.readouterr().out.split())
    assert "forward takes it 320 ms of a step of equal shares, 200 ms expected" in said
    assert "rank 1 on south does 3 of a step's micro-batches, 4 until now, 160 ms each" in said
    assert [line["micro_batches"] for line in lines(folder)[1:5]] == [[4, 4]] * 3 + [[5, 3]]


def test_a_slow_link_is_named_by_what_the_ranks_know_of_it(
    made: Callable[..., Monitor], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = made(("north", "south", "west"), (0, 0, 0))
    slow, fast = Sent(1e6, 0.5), Sent(1e6, 0.01)
    addresses = {"north": "10.0.0.1", "south": "10.0.0.2", "west": "10.0.0.3"}
    ring = [("north", "south", slow), ("south", "west", fast), ("west", "north", slow)]
    monitor._engine.gather = lambda value: [  # type: ignore[method-assign]
        (sender, (addresses[sender],), {addresses[receiver]: sent}) for sender, receiver, sent in ring
    ]
    hear(monitor, range(1, 31), *[told(link_seconds=0.01, link_bytes=1e6)] * 3)
    hear(monitor, range(31, 81), *[told(link_seconds=one, link_bytes=1e6) for one in (0.2, 0.01, 0.2)])
    (event,) = events(folder)
    assert {"event": "straggler", "step": 55, "section": "link", "host": "north", "rank": 0}.items() <= event.items()
    assert "the network of north is slow" in " ".join(capsys.readouterr().out.split())


def test_stages_that_are_not_balanced_are_advised_once(
    made: Callable[..., Monitor], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = toolkit.plan("smollm-135m", "2xcpu", seq_len=8, global_batch=8, pp=2, stages=(20, 10))
    monitor = made(("a", "b"), (0, 1), of=pipeline)
    hear(monitor, range(1, 61), told(forward_seconds=0.2), told(forward_seconds=0.1, backward_seconds=0.0))
    (event,) = events(folder)
    assert (event["event"], event["step"], event["stages"]) == ("stage split", 30, [10, 20])
    assert "`toolkit plan --stages 10,20` would make a step" in " ".join(capsys.readouterr().out.split())


def test_what_is_taken_back_is_forgotten(made: Callable[..., Monitor], folder: RunFolder) -> None:
    monitor = made()
    hear(monitor, range(1, 31), told(), told())
    monitor.go_back(12)
    assert [line["step"] for line in lines(folder)] == [0, 4, 9, 12]


def test_it_can_be_turned_off(made: Callable[..., Monitor], folder: RunFolder) -> None:
    monitor = made(enabled=False)
    hear(monitor, range(1, 31))
    assert monitor.tells() == ()
    monitor.go_back(3)
    assert not folder.ranks.exists()


def test_of_many_ranks_the_file_gets_fewer_lines(made: Callable[..., Monitor], folder: RunFolder) -> None:
    monitor = made(("a",) * 130, (0,) * 130)
    hear(monitor, range(1, 31), *[told()] * 130)
    assert [line["step"] for line in lines(folder)] == [0, 14, 29]


def test_hosts_are_what_they_call_themselves(folder: RunFolder, engine: Callable[..., Any], plan: Plan) -> None:
    scripted = engine([])
    Monitor(folder, scripted, Telemetry(folder, scripted, num_steps=1), plan=plan, recipe=recipe_of(plan), done=0)
    assert lines(folder)[0]["hosts"] == [socket.gethostname()]
