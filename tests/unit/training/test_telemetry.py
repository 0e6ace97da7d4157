"""telemetry.jsonl: one JSON object per step, written by rank 0 alone, there even if the run dies."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from toolkit.engines.base import StepResult
from toolkit.run_folder import RunFolder
from toolkit.training.telemetry import Telemetry

STEP = StepResult(
    loss=2.5,
    grad_norm=1.25,
    clipped_norm=0.5,
    tokens=4096,
    supervised_tokens=1000,
    loss_scale=256.0,
    skipped=False,
    phase_seconds={"forward": 0.5, "backward": 1.0},
)
OVERFLOW = StepResult(
    loss=2.5,
    grad_norm=float("inf"),
    clipped_norm=float("inf"),
    tokens=4096,
    supervised_tokens=1000,
    loss_scale=128.0,
    skipped=True,
)


class Recorder:
    """A tracker."""

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int | None) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def strict(text: str) -> list[dict[str, Any]]:
    """Lines of JSON as other languages read it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_line_holds_the_step(folder: RunFolder, engine: Callable[..., Any]) -> None:
    with Telemetry(folder, engine([]), num_steps=3) as telemetry:
        telemetry.record(1, STEP, learning_rate=1e-4, epoch=0.33333333, data_seconds=0.25)
    (line,) = strict(folder.telemetry.read_text())
    seconds, rate = line.pop("step_seconds"), line.pop("tokens_per_second")
    assert rate * seconds == pytest.approx(4096)
    assert line.pop("peak_rss_bytes") > 10 * 1024**2
    assert line == {
        "step": 1,
        "epoch": 0.3333,
        "loss": 2.5,
        "grad_norm": 1.25,
        "clipped_norm": 0.5,
        "lr": 1e-4,
        "data_seconds": 0.25,
        "forward_seconds": 0.5,
        "backward_seconds": 1.0,
        "tokens": 4096,
        "supervised_tokens": 1000,
        "loss_scale": 256.0,
        "skipped": False,
    }


def test_every_line_is_on_disk_before_the_next_step(folder: RunFolder, engine: Callable[..., Any]) -> None:
    with Telemetry(folder, engine([]), num_steps=3) as telemetry:
        for step in (1, 2, 3):
            telemetry.record(step, STEP, learning_rate=1e-4, epoch=1.0, data_seconds=0.25)
            assert [line["step"] for line in strict(folder.telemetry.read_text())] == list(range(1, step + 1))


def test_an_overflow_is_still_json(folder: RunFolder, engine: Callable[..., Any]) -> None:
    with Telemetry(folder, engine([]), num_steps=1) as telemetry:
        telemetry.record(1, OVERFLOW, learning_rate=1e-4, epoch=1.0, data_seconds=0.25)
    (line,) = strict(folder.telemetry.read_text())
    assert line["grad_norm"] is None
    assert line["skipped"] is True


def test_other_ranks_keep_records_and_write_nothing(
    folder: RunFolder, engine: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Recorder()
    with Telemetry(folder, engine([], rank=1), num_steps=1, trackers=(tracker,)) as telemetry:
        telemetry.say("hello")
        telemetry.record(1, STEP, learning_rate=1e-4, epoch=1.0, data_seconds=0.25)
    assert not folder.telemetry.exists()
    assert capsys.readouterr().out == ""
    assert tracker.logged == []
    assert [record["step"] for record in telemetry.records] == [1]


def test_trackers_get_numbers_and_are_finished_even_after_an_error(
    folder: RunFolder, engine: Callable[..., Any]
) -> None:
    tracker = Recorder()

    def interrupted() -> None:
        with Telemetry(folder, engine([]), num_steps=2, trackers=(tracker,)) as telemetry:
            telemetry.record(1, STEP, learning_rate=1e-4, epoch=1.0, data_seconds=0.25)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    ((step, values),) = tracker.logged
    assert step == 1
    assert values["loss"] == 2.5
    assert values["skipped"] == 0.0
    assert tracker.finished


def test_without_a_terminal_some_steps_are_printed(
    folder: RunFolder, engine: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with Telemetry(folder, engine([]), num_steps=100) as telemetry:
        for step in range(1, 101):
            telemetry.record(step, STEP, learning_rate=1e-4, epoch=1.0, data_seconds=0.25)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert printed[0].startswith("step 1/100  loss 2.5000  lr 1.00e-04  norm 1.250")
    assert printed[-1].startswith("step 100/100")
    assert len(printed) == 21
