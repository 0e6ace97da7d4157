"""Curves that grow while a cell is at work: shown once, updated with new steps, and a last time at the end."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
pytest.importorskip("IPython", reason="live curves are for notebooks")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from toolkit.planner.plan import Plan
from toolkit.report.pictures.live import live_curves
from unit.report.test_compare import GPU, write_run

LINE = {"loss": 2.0, "grad_norm": 1.0, "lr": 1e-3, "tokens": 8, "tokens_per_second": 8.0, "step_seconds": 1.0}


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def add_step(run: Path, number: int) -> None:
    with (run / "telemetry.jsonl").open("a") as file:
        file.write(json.dumps({**LINE, "step": number}) + "\n")


def wait_for(outputs: list[dict[str, Any]], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(outputs) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(outputs) >= count


def test_new_steps_are_drawn_while_it_trains_and_at_the_end(
    shell: InteractiveShell, small: Plan, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small, [1.0], peaks=GPU)
    (run / "telemetry.jsonl").unlink()
    with capture_output() as captured:
        with live_curves(run, every_seconds=0.05):
            add_step(run, 1)
            wait_for(shell.display_pub.outputs, 2)
            add_step(run, 2)
            wait_for(shell.display_pub.outputs, 3)
            (run / "evaluations.jsonl").write_text('{"step": 2, "held_out_loss": 1.0}\n')
        shown = captured.outputs
    words = [one.data["text/plain"] for one in shown]
    assert words[0] == "waiting for the first step"
    assert words[1].startswith("step 1: ")
    assert words[-1].startswith("step 2: ")
    assert shown[-1].data["image/png"] != shown[-2].data["image/png"], "what was measured last is in the last picture"
    assert [one.update for one in shown] == [False] + [True] * (len(shown) - 1)
    assert len({one.transient["display_id"] for one in shown}) == 1


def test_an_error_of_the_training_is_the_cells_own(shell: InteractiveShell, small: Plan, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small, [1.0], peaks=GPU)
    (run / "telemetry.jsonl").unlink()
    with capture_output() as captured, pytest.raises(ZeroDivisionError), live_curves(run, every_seconds=0.05):
        1 // (run / "telemetry.jsonl").write_text("")
    assert [one.data["text/plain"] for one in captured.outputs] == ["waiting for the first step"]
