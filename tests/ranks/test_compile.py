"""Compiled layers train as the others do, whole: no operation of a layer is left out of the compilation."""

from pathlib import Path
from typing import Any

import pytest
from torch._dynamo.utils import counters

from procs import run_ranks
from ranks.equality import assert_equal
from ranks.reference import reference_run
from ranks.runs import train, write_run
from toolkit.engines.base import StepResult

pytestmark = pytest.mark.ranks

LAYOUTS: dict[str, dict[str, Any]] = {
    "zero2-recomputed": {"zero_stage": 2, "activation_checkpointing": "full", "checkpointing_every": 2},
    "tp2": {"zero_stage": 1, "tp": 2},
    "sp2": {"zero_stage": 1, "sp": 2},
    "pp2": {"pp": 2},
    "lora": {"zero_stage": 2, "method": "lora"},
    "eager": {"zero_stage": 0, "attention": "eager"},
}


def train_and_count(folder: Path) -> tuple[list[StepResult], int, int]:
    """As `train`; graphs that were compiled, and places where compiling stopped."""
    steps = train(folder).steps
    return steps, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


# The first run on a machine compiles for two minutes.
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_one_process(tmp_path: Path, deep: Path, layout: str) -> None:
    choices = LAYOUTS[layout]
    folder = write_run(tmp_path / "run", deep, compile=True, **choices)
    steps, graphs, breaks = run_ranks(train_and_count, 2, folder, timeout_s=600)[0]
    one = reference_run(deep, method=choices.get("method", "full"))
    assert_equal(steps, one.steps, loss=1e-5, norm=1e-5)
    assert graphs > 0
    assert breaks == 0
