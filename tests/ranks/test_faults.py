"""Whatever happens to a run, the same command ends it with the numbers of the run that nothing happened to.

`make soak` does the same some hundred times; its counts are in docs/reliability.md.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import toolkit
from ranks.chaos import differences, live_through
from ranks.runs import in_warm_ranks
from toolkit.demo.model import write_demo_model
from toolkit.demo.tasks import demo_rows
from toolkit.report.runs import Run
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

STEPS, EVERY = 60, 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write_inputs(folder: Path) -> Path:
    """A folder with `model/` and `data.jsonl`."""
    folder.mkdir(exist_ok=True)
    rows = demo_rows()[0][:120]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_demo_model(folder / "model", (row[key] for row in rows for key in ("prompt", "completion")))
    return folder


def write(
    folder: Path,
    inputs: Path,
    *,
    checkpoint: dict[str, Any] | None = None,
    faults: dict[str, Any] | None = None,
    **choices: Any,
) -> Path:
    """A planned run that saves often; `choices` as for `toolkit.plan`."""
    layout = {"zero_stage": 2} if "pp" not in choices else {}
    plan = toolkit.plan(
        inputs / "model", "2xcpu", seq_len=32, global_batch=8, micro_batch=2, precision="fp32", **{**layout, **choices}
    )
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "held_out_fraction": 0.1},
        "max_steps": STEPS,
        "trackers": [],
        "checkpoint": checkpoint or {"every_steps": EVERY},
        "faults": faults or {"hang_minutes": 0.1},
    }
    return toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="test"))


@pytest.fixture(scope="module")
def untouched(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing happens to."""
    folder = write(tmp_path_factory.mktemp("untouched") / "run", inputs)
    in_warm_ranks(folder)
    return toolkit.load_run(folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_random_faults(tmp_path: Path, inputs: Path, untouched: Run, seed: int) -> None:
    folder = write(tmp_path / "run", inputs)
    story = live_through(folder, random.Random(seed), faults=5)
    assert sum(story.faults.values()) >= 3, "the run was over before anything happened to it"
    assert differences(toolkit.load_run(folder), untouched) == []


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_user_kills_ranks_and_launcher(tmp_path: Path, inputs: Path, untouched: Run) -> None:
    """Ranks that died, stand still or lost their agent start again; without a launcher, the same command goes on."""
    folder = write(tmp_path / "run", inputs)
    command = [sys.executable, "-m", "toolkit", "launch", str(folder)]
    told = (tmp_path / "told").open("w+")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told) as launcher:
        os.kill(rank_at(folder, 8), signal.SIGKILL)
        os.kill(rank_at(folder, 20), signal.SIGSTOP)
        os.kill(parent_of(rank_at(folder, 32)), signal.SIGKILL)
        rank_at(folder, 44)
        launcher.kill()
    wait_for_the_end_of_ranks(folder)
    assert not RunFolder(folder).finished

    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert differences(toolkit.load_run(folder), untouched) == []
    restarts = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    reasons = [event["reason"] for event in restarts if event["event"] == "restarted"]
    assert len(reasons) == 3, told.read()
    assert "stood still" in reasons[1]
    stacks = list((folder / "faults").rglob("rank-*.txt"))
    assert stacks
    assert any("train_step" in path.read_text() for path in stacks)


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_fewer_ranks_go_on_where_the_recipe_allows_it(tmp_path: Path, inputs: Path, untouched: Run) -> None:
    folder = write(tmp_path / "run", inputs, faults={"min_ranks": 1}, checkpoint={"every_steps": 50})
    command = [sys.executable, "-m", "toolkit", "launch", str(folder), "--max-restarts", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as launcher:
        # Before the first checkpoint: a new one would count as progress.
        os.kill(rank_at(folder, 2), signal.SIGKILL)
        _, told = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, told
    assert "1 of 2 ranks go on" in told
    run = toolkit.load_run(folder)
    assert (run.plan.world_size, run.summary["world_size"]) == (1, 1)
    for one, two in zip(run.steps, untouched.steps, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=2e-6)


def rank_at(folder: Path, step: int) -> int:
    """Process id of rank 1 of a run that has come that far, in the attempt that is under way."""
    beat, deadline = folder / "heartbeats" / "rank-00001.json", time.monotonic() + 90
    while time.monotonic() < deadline:
        lines = (folder / "telemetry.jsonl").read_text().count("\n") if (folder / "telemetry.jsonl").exists() else 0
        if lines >= step and beat.exists():
            pid = int(json.loads(beat.read_text())["pid"])
            if Path(f"/proc/{pid}").exists():
                return pid
        time.sleep(0.02)
    raise AssertionError(f"the run did not come to step {step}")


def parent_of(pid: int) -> int:
    """accelerate, which holds torchrun's agent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_the_end_of_ranks(folder: Path) -> None:
    """Ranks notice that their launcher is gone; they save, and leave within 10 seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
        if not any(b"toolkit.finetune" in line and str(folder).encode() in line for line in lines):
            return
        time.sleep(0.1)
    raise AssertionError("ranks train on without their launcher")
