"""Schedules that watch the run decide alike in every layout, and a run that goes on decides as if it had never stopped.

Whole runs of finetune.py. `plateau` halves, so its rates are the same to the last bit where the decisions are;
`relative_change` multiplies by what it measures: rates off by 6e-7 of themselves at most. Losses are off by 2e-6.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import toolkit
from ranks.runs import in_warm_ranks
from ranks.test_faults import write_inputs
from toolkit.checkpoints.store import Store
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

STEPS, EVERY, STOP = 16, 2, 6
LOSS, RATE = 3e-6, 3e-6
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "tp2": {"zero_stage": 1, "tp": 2},
    "pp2": {"pp": 2},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    # A loss that falls by less than a fifth is no better one: it lowers the rate several times, far from any tie.
    "plateau": {"kind": "plateau", "warmup_steps": 2, "patience": 0, "threshold": 0.2, "min_ratio": 0.1},
    "relative_change": {
        "kind": "relative_change",
        "warmup_steps": 2,
        "target": 5e-3,
        "measure_every": 2,
        "max_adjustment": 2.0,
        "min_ratio": 0.01,
    },
}


QUICK = {("zero2", "plateau"), ("pp2", "relative_change")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write(folder: Path, inputs: Path, schedule: str, *, cluster: str = "2xcpu", **choices: Any) -> Path:
    plan = toolkit.plan(
        inputs / "model", cluster, seq_len=32, global_batch=8, micro_batch=2, precision="fp32", **choices
    )
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "held_out_fraction": 0.2},
        "max_steps": STEPS,
        "optimizer": {"learning_rate": 5e-3},
        "schedule": SCHEDULES[schedule],
        "evaluation": {"every_steps": EVERY, "exact_match_samples": 4, "max_new_tokens": 4, "generate_samples": 2},
        "checkpoint": {"every_steps": STOP, "keep_every": STOP},
        "trackers": ["tensorboard"],
    }
    return toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="test"))


@functools.cache
def one_process(folder: Path, inputs: Path, schedule: str) -> toolkit.Run:
    in_warm_ranks(write(folder / schedule, inputs, schedule, cluster="1xcpu", zero_stage=1))
    return toolkit.load_run(folder / schedule)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


def numbers(run: toolkit.Run, name: str) -> list[float]:
    return [step[name] for step in run.steps]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("layout", "schedule"),
    [
        pytest.param(layout, schedule, marks=[] if (layout, schedule) in QUICK else pytest.mark.soak)
        for layout in LAYOUTS
        for schedule in SCHEDULES
    ],
)
def test_rates_are_those_of_one_process(tmp_path: Path, inputs: Path, alone: Path, layout: str, schedule: str) -> None:
    folder = write(tmp_path / "run", inputs, schedule, **LAYOUTS[layout])
    in_warm_ranks(folder)
    run, one = toolkit.load_run(folder), one_process(alone, inputs, schedule)
    rates = numbers(one, "lr")
    # The rule has acted, several times.
    assert len(set(rates[2:])) >= 3
    assert numbers(run, "lr") == (rates if schedule == "plateau" else pytest.approx(rates, rel=RATE))
    assert numbers(run, "loss") == pytest.approx(numbers(one, "loss"), abs=LOSS)
    curve, expected = ([line["held_out_loss"] for line in each.evaluations] for each in (run, one))
    assert curve == pytest.approx(expected, abs=LOSS)
    assert [each["exact_match"] for each in run.evaluations] == [each["exact_match"] for each in one.evaluations]
    assert [line["step"] for line in run.evaluations] == list(range(0, STEPS + 1, EVERY))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("layout", "schedule"),
    [
        pytest.param("pp2", "relative_change", marks=pytest.mark.soak),
        ("zero2", "plateau"),
        pytest.param("zero3", "relative_change", marks=pytest.mark.soak),
    ],
)
def test_a_run_that_goes_on_has_the_rates_of_one_that_never_stopped(
    tmp_path: Path, inputs: Path, layout: str, schedule: str
) -> None:
    folder = RunFolder(write(tmp_path / "run", inputs, schedule, **LAYOUTS[layout]))
    in_warm_ranks(folder.path)
    files = (folder.telemetry, folder.evaluations, folder.answers)
    whole, weights = [read(path) for path in files], load_file(folder.export / "model.safetensors")
    folder.summary.unlink()
    for step in Store(folder.checkpoints).steps():
        if step > STOP:
            shutil.rmtree(Store(folder.checkpoints).folder(step))
    in_warm_ranks(folder.path)
    assert [read(path) for path in files] == whole
    again = load_file(folder.export / "model.safetensors")
    assert all(bool((again[name] == weight).all()) for name, weight in weights.items())


def read(path: Path) -> list[dict[str, Any]]:
    """What does not depend on the clock."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    timed = ("tokens_per_second", "peak_rss_bytes")
    return [
        {key: value for key, value in line.items() if key not in timed and not key.endswith("_seconds")}
        for line in lines
    ]
