"""Attention that keeps its scores trains and answers as torch's own kernels do."""

from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks.equality import assert_equal, trained
from ranks.reference import reference_run
from ranks.runs import write_run
from ranks.test_chunked_loss import losses_and_answers

pytestmark = pytest.mark.ranks

SOAK = pytest.mark.soak
LAYOUTS = ({"zero_stage": 2}, *(pytest.param(one, marks=SOAK) for one in ({"tp": 2, "zero_stage": 1}, {"pp": 2})))


@pytest.mark.parametrize("choices", LAYOUTS, ids=str)
def test_eager_trains_the_same(tmp_path: Path, deep: Path, choices: dict[str, Any]) -> None:
    steps = trained(write_run(tmp_path / "run", deep, attention="eager", **choices)).steps
    assert_equal(steps, reference_run(deep).steps, loss=3e-6, norm=1e-5)


@pytest.mark.parametrize("choices", [{"pp": 2}, pytest.param({"zero_stage": 2}, marks=SOAK)], ids=str)
def test_eager_answers_the_same(tmp_path: Path, deep: Path, choices: dict[str, Any]) -> None:
    (loss, answers), (other, same) = (
        run_ranks(losses_and_answers, 2, write_run(tmp_path / name, deep, attention=name, **choices))[0]
        for name in ("sdpa", "eager")
    )
    assert other == pytest.approx(loss, abs=3e-6)
    assert same == answers
