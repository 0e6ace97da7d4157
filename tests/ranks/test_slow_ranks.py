"""A rank of a real run that becomes slow is named with its section within 50 steps; of a healthy run nobody is."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from procs import run_ranks
from ranks.slowed import WAYS, finetune_slowed
from ranks.test_faults import write_inputs
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

AFTER, WITHIN = 5, 38  # 50 steps are promised


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write(
    folder: Path, inputs: Path, *, ranks: int, steps: int, monitoring: dict[str, Any] | None = None, **choices: Any
) -> RunFolder:
    """A run without anything but steps; `choices` as for `toolkit.plan`."""
    batch = {"seq_len": 32, "global_batch": 2 * ranks, "micro_batch": 2}
    layout = {"zero_stage": 2, "tp": 1, "sp": 1, "pp": 1}
    plan = toolkit.plan(inputs / "model", f"{ranks}xcpu", precision="fp32", **{**batch, **layout, **choices})
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "held_out_fraction": 0.1},
        "max_steps": steps,
        "trackers": [],
        "monitoring": monitoring or {},
        "checkpoint": {"at_end": False},
        "evaluation": {"loss_samples": 0, "exact_match_samples": 0, "generate_samples": 0},
    }
    return RunFolder(toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="test")))


def stragglers(run: RunFolder) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [event for event in events if event["event"].startswith("straggler")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("way", "section"),
    [
        ("data", "data"),
        pytest.param("forward", "forward", marks=pytest.mark.soak),
        pytest.param("backward", "backward", marks=pytest.mark.soak),
        pytest.param("optimizer", "optimizer", marks=pytest.mark.soak),
    ],
)
def test_a_slow_rank_is_named(tmp_path: Path, inputs: Path, way: str, section: str) -> None:
    run = write(tmp_path / "run", inputs, ranks=2, steps=AFTER + WITHIN)
    run_ranks(finetune_slowed, 2, run.path, 1, way, AFTER, 0.08, timeout_s=200)
    (event,) = stragglers(run)
    assert (event["rank"], event["section"]) == (1, section)
    assert AFTER < event["step"] <= AFTER + WITHIN
    lines = [json.loads(line) for line in run.ranks.read_text().splitlines()][1:]
    assert [line["step"] for line in lines][:2] == [7, 12]  # the first two steps say nothing
    assert lines[-1][f"{section}_seconds"][1] > lines[-1][f"{section}_seconds"][0] + 0.05


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["stopped"])
def test_a_rank_that_is_held_up_is_named(tmp_path: Path, inputs: Path, way: str) -> None:
    run = write(tmp_path / "run", inputs, ranks=4, steps=40 + WITHIN)
    run_ranks(finetune_slowed, 4, run.path, 2, way, 40, 0.0, timeout_s=800)
    assert [event["rank"] for event in stragglers(run) if event["event"] == "straggler"] == [2]


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "layout", [{}, {"engine": "pipeline", "pp": 2}, {"zero_stage": 3}, {"engine": "mcore", "pp": 2}], ids=str
)
def test_in_a_healthy_run_nobody_is_named(tmp_path: Path, inputs: Path, layout: dict[str, Any]) -> None:
    if layout.get("engine"):
        layout = {"zero_stage": None, **layout}
    run = write(tmp_path / "run", inputs, ranks=4, steps=300, **layout)
    run_ranks(finetune_slowed, 4, run.path, 0, "none", 0, 0.0, timeout_s=1100)
    assert stragglers(run) == []
    assert set(WAYS) > {"none"}
