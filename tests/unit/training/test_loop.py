"""The loop: how long, at which rates, what ends it early, and what it does about bad steps."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import toolkit
from toolkit.checkpoints.shelves import open_shelf
from toolkit.checkpoints.store import Store
from toolkit.engines.base import StepResult
from toolkit.errors import EngineError, NumericalFault, Preempted, SaveFailed
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.recipe import Recipe
from toolkit.specs.reliability import CheckpointConfig, FaultConfig
from toolkit.specs.schedule import ScheduleConfig
from toolkit.specs.workload import Workload
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.loop import num_steps
from toolkit.training.session import Session
from toolkit.versions import installed_versions

NAN = float("nan")


class Numbers:
    """Data of 10 steps an epoch; a batch is its own number."""

    steps_per_epoch = 10

    def step(self, index: int, counts: Any = None) -> Any:
        return index

    def row_numbers(self, index: int) -> list[int]:
        return [10 * index, 10 * index + 1]


def step(loss: float = 2.0, *, skipped: bool = False) -> StepResult:
    return StepResult(
        loss=loss,
        grad_norm=1.0,
        clipped_norm=0.5,
        tokens=100,
        supervised_tokens=50,
        loss_scale=1.0,
        skipped=skipped,
    )


def recipe(**changes: Any) -> Recipe:
    return Recipe(
        model="m",
        workload=Workload(seq_len=8, global_batch=8),
        optimizer=OptimizerConfig(learning_rate=1.0),
        schedule=ScheduleConfig(kind="linear", warmup_steps=2),
        **changes,
    )


@pytest.mark.parametrize(
    ("length", "expected"),
    [({}, 10), ({"epochs": 2.0}, 20), ({"epochs": 0.25}, 3), ({"epochs": 0.01}, 1), ({"max_steps": 7}, 7)],
)
def test_length(length: dict[str, float], expected: int) -> None:
    assert num_steps(recipe(**length), Numbers()) == expected


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "expected"), [(1.1, 100, 110), (2.2, 5, 11), (1.1, 10, 11), (1.101, 100, 111)]
)
def test_a_part_of_an_epoch_is_not_rounded_up_in_binary(epochs: float, per_epoch: int, expected: int) -> None:
    numbers = Numbers()
    numbers.steps_per_epoch = per_epoch
    assert num_steps(recipe(epochs=epochs), numbers) == expected


@pytest.fixture(scope="module")
def plan() -> Plan:
    return toolkit.plan("smollm-135m", "1xcpu", seq_len=8, global_batch=8)


@pytest.fixture
def train(folder: RunFolder, plan: Plan) -> Callable[..., list[dict[str, Any]]]:
    """Train with a scripted engine, with real files around it."""
    plan.save(folder.plan)

    def run(engine: Any, recipe: Recipe, resume: int | None = None) -> list[dict[str, Any]]:
        recipe.save(folder.recipe)
        shelf = open_shelf(folder, engine, recipe.checkpoint)
        session = Session(folder, plan, recipe, engine, Numbers(), None, {"model": "scripted"}, shelf)
        with Heartbeat(folder, 0, hang_minutes=1.0) as heartbeat:
            return session.train(heartbeat, step=resume, introduction="").records

    return run


def events(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.events.read_text().splitlines()]


def test_a_skipped_step_does_not_use_up_the_schedule(engine: Callable[..., Any], train: Callable[..., Any]) -> None:
    overflow = StepResult(
        2.0,
        float("inf"),
        float("inf"),
        tokens=100,
        supervised_tokens=50,
        loss_scale=64.0,
        skipped=True,
    )
    scripted = engine([overflow, overflow, step(), step(), step(), step()])
    fp16 = Workload(seq_len=8, global_batch=8, precision="fp16")
    records = train(scripted, recipe(max_steps=6).model_copy(update={"workload": fp16}))
    assert scripted.learning_rates == [0.5, 0.5, 0.5, 1.0, 1.0, 0.75]
    assert [record["lr"] for record in records] == scripted.learning_rates
    assert [record["epoch"] for record in records] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_overflows_at_a_static_loss_scale_end_the_run(
    engine: Callable[..., Any], train: Callable[..., Any], folder: RunFolder
) -> None:
    """Nothing lowers it: each is told, and three in a row end a run that would otherwise only go through its data."""
    static = replace(step(skipped=True), grad_norm=float("inf"), loss_scale=1024.0, static_scale=True)
    fp16 = Workload(seq_len=8, global_batch=8, precision="fp16")
    told = r"step 5: the gradients overflow in fp16 at a loss scale of 1024, which stays; lower fp16\.loss_scale"
    with pytest.raises(NumericalFault, match=told):
        train(
            engine([static, step(), *[static] * 3, step()]),
            recipe(max_steps=6).model_copy(update={"workload": fp16}),
        )
    assert [event["step"] for event in events(folder) if event["event"] == "bad step"] == [1, 3, 4, 5]


def test_a_model_that_is_broken_from_the_start_ends_the_run(
    engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    with pytest.raises(EngineError, match="the loss is nan before any update: the model's own weights"):
        train(engine([step(NAN, skipped=True)]), recipe(max_steps=3))


def test_bad_steps_are_left_out_and_told(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    scripted = engine([step(), step(NAN, skipped=True), step(NAN, skipped=True), step(), step()])
    assert [record["step"] for record in train(scripted, recipe(max_steps=5))] == [1, 2, 3, 4, 5]
    told = [(event["step"], event["reason"], event["rows"]) for event in events(folder) if event["event"] == "bad step"]
    assert told == [(2, "the loss is nan", [10, 11]), (3, "the loss is nan", [20, 21])]


def test_bad_steps_in_a_row_end_the_run_with_its_checkpoints(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    bad = step(NAN, skipped=True)
    every_step = CheckpointConfig(every_steps=1)
    with pytest.raises(NumericalFault, match=r"step 4: the loss is nan.+rows 30, 31.+ 3 bad step\(s\) in a row"):
        train(engine([step(), bad, bad, bad]), recipe(max_steps=9, checkpoint=every_step))
    assert NumericalFault.exit_code == 76
    assert Store(folder.checkpoints).steps()[0] in (2, 3)


def test_a_loss_that_went_into_the_weights_ends_the_run(engine: Callable[..., Any], train: Callable[..., Any]) -> None:
    with pytest.raises(NumericalFault, match="step 2"):
        train(engine([step(), step(NAN, skipped=False)]), recipe(max_steps=9))


def test_going_back_leaves_the_bad_batch_out(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    scripted = engine([step(), step(), step(), step(NAN, skipped=True), step(1.5), step(1.4), step(1.3)])
    wanted = recipe(max_steps=6, checkpoint=CheckpointConfig(every_steps=2), faults=FaultConfig(on_bad_step="rollback"))
    records = train(scripted, wanted)
    assert scripted.batches == [0, 1, 2, 3, 2, 4, 5]
    assert [record["step"] for record in records] == [1, 2, 3, 5, 6]
    assert [line["step"] for line in map(json.loads, folder.telemetry.read_text().splitlines())] == [1, 2, 3, 5, 6]
    # Of six batches five have moved the weights, each once.
    rates = [scripted.learning_rates[index] for index in (0, 1, 4, 5, 6)]
    assert scripted.kept["weight"].tolist() == pytest.approx([sum(rates)] * 4)
    (back,) = (event for event in events(folder) if event["event"] == "rolled back")
    assert (back["step"], back["left_out"]) == (2, [3])


@pytest.mark.parametrize(("good", "saved"), [(1, 2), (3, 4)], ids=["before it saves", "after"])
def test_a_run_that_is_sent_back_stays_on_its_new_way(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any], good: int, saved: int
) -> None:
    """What was trained before is neither gone on from nor counted, and not lost, whenever the run is interrupted."""
    every_two = CheckpointConfig(every_steps=2, asynchronous=False)
    wanted = recipe(max_steps=9, checkpoint=every_two, faults=FaultConfig(on_bad_step="stop"))
    train(engine([step()] * 6), recipe(max_steps=6, checkpoint=CheckpointConfig(every_steps=2, keep_last=3)))
    store = Store(folder.checkpoints)
    assert store.steps() == [6, 4, 2]
    with pytest.raises(NumericalFault):
        train(engine([*[step()] * good, step(NAN, skipped=True)]), wanted, resume=2)
    assert store.steps() == sorted({2, saved}, reverse=True)
    assert (folder.checkpoints / "latest").read_text() == f"step-{saved:08d}\n"
    aside = folder.checkpoints / "set-aside-1"
    assert Store(aside).steps() == [6, 4]
    told = [event for event in events(folder) if event["event"] == "checkpoints set aside"]
    assert [(event["step"], event["folder"]) for event in told] == [(2, "set-aside-1")]

    again = engine([step()] * 9)
    train(again, wanted)
    assert again.batches == list(range(saved, 9))
    assert store.steps() == [9, 8]
    assert Store(aside).steps() == [6, 4]


def test_a_run_that_is_sent_back_twice_loses_nothing(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    wanted = recipe(max_steps=6, checkpoint=CheckpointConfig(every_steps=2, keep_last=3))
    for resume in (None, 4, 2, 6):
        train(engine([step()] * 6), wanted, resume=resume)
    asides = {path.name: Store(path).steps() for path in folder.checkpoints.glob("set-aside-*")}
    assert asides == {"set-aside-1": [6], "set-aside-2": [6, 4]}
    assert Store(folder.checkpoints).steps() == [6, 4, 2]


def test_nothing_to_go_back_to(engine: Callable[..., Any], train: Callable[..., Any]) -> None:
    scripted = engine([step(), step(NAN, skipped=True)])
    with pytest.raises(NumericalFault, match="no checkpoint to go back to"):
        train(scripted, recipe(max_steps=6, faults=FaultConfig(on_bad_step="rollback")))


def test_a_jump_of_the_loss_is_a_bad_step(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    losses = [2.0 + 0.01 * (index % 3) for index in range(20)]
    faults = FaultConfig(spike_zscore=6.0, spike_window=10)
    train(engine([step(loss) for loss in [*losses, 9.0, 2.0]]), recipe(max_steps=22, faults=faults))
    (told,) = (event for event in events(folder) if event["event"] == "bad step")
    assert told["step"] == 21
    assert told["reason"].startswith("the loss jumps to 9.0000")


def test_asked_to_leave_it_saves_and_goes_on_later(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    class Asked(engine):  # type: ignore[misc, valid-type]
        def train_step(self, micro_batches: Any, **told: Any) -> StepResult:
            if micro_batches == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            result: StepResult = super().train_step(micro_batches, **told)
            return result

    asked = Asked([step()] * 9)
    with pytest.raises(Preempted, match="SIGTERM: saved after step 3"):
        train(asked, recipe(max_steps=6))
    again = engine([step()] * 9)
    assert [record["step"] for record in train(again, recipe(max_steps=6))] == [1, 2, 3, 4, 5, 6]
    assert again.batches == [3, 4, 5]
    assert again.learning_rates == [0.75, 0.5, 0.25]


def test_asked_to_leave_without_room_it_does_not_say_that_it_saved(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    class Asked(engine):  # type: ignore[misc, valid-type]
        def train_step(self, micro_batches: Any, **told: Any) -> StepResult:
            os.kill(os.getpid(), signal.SIGUSR1) if micro_batches == 1 else None
            result: StepResult = super().train_step(micro_batches, **told)
            return result

    folder.checkpoints.write_text("a file is in the way")
    with pytest.raises(SaveFailed, match="SIGUSR1: left after step 3, of which no checkpoint could be written"):
        train(Asked([step()] * 9), recipe(max_steps=6))
    assert [event["event"] for event in events(folder)] == ["started", "checkpoint failed"]


@pytest.mark.parametrize("on_failure", ["warn", "stop"])
def test_a_checkpoint_that_cannot_be_written(
    folder: RunFolder,
    engine: Callable[..., Any],
    train: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    on_failure: Any,
) -> None:
    folder.checkpoints.parent.mkdir(exist_ok=True)
    folder.checkpoints.write_text("a file is in the way")
    wanted = recipe(max_steps=4, checkpoint=CheckpointConfig(every_steps=2, on_failure=on_failure))
    if on_failure == "stop":
        with pytest.raises(SaveFailed, match="no checkpoint at step 2"):
            train(engine([step()] * 4), wanted)
        return
    assert len(train(engine([step()] * 4), wanted)) == 4
    assert "WARNING: no checkpoint at step 2" in capsys.readouterr().out
    assert {event["event"] for event in events(folder)} == {"started", "checkpoint failed"}


def test_every_start_is_told(folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]) -> None:
    train(engine([step()] * 2), recipe(max_steps=2))
    train(engine([step()] * 2), recipe(max_steps=4))
    told = [event for event in events(folder) if event["event"] == "started"]
    assert [(event["step"], event["num_steps"]) for event in told] == [(0, 2), (2, 4)]
    assert told[0]["versions"] == installed_versions()


def test_checkpoints_are_told_with_what_they_took(
    folder: RunFolder, engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    train(engine([step()] * 5), recipe(max_steps=5, checkpoint=CheckpointConfig(every_steps=2)))
    told = [event for event in events(folder) if event["event"] == "checkpoint"]
    assert [event["step"] for event in told] == [2, 4, 5]
    # Four weights with two moments each, four bytes a number, and the state of the random numbers.
    assert all(48 < event["num_bytes"] < 10_000 for event in told)
    assert all(0 < event["stall_seconds"] < 60 for event in told)


def test_copies_of_the_weights_that_came_apart_end_the_run(
    engine: Callable[..., Any], train: Callable[..., Any]
) -> None:
    class Two(engine):  # type: ignore[misc, valid-type]
        def gather(self, value: Any) -> list[Any]:
            # What a second rank would tell, whose weights are others from step 4 on.
            return (
                [value, ("all", "others" if self.batches[-1:] == [3] else value[1])] if _is_digest(value) else [value]
            )

    faults = FaultConfig(compare_every=2)
    with pytest.raises(NumericalFault, match="step 4: rank 0 and rank 1 hold different copies of the same weights"):
        train(Two([step()] * 6), recipe(max_steps=6, faults=faults))


def _is_digest(value: Any) -> bool:
    return isinstance(value, tuple) and value[:1] == ("all",)
