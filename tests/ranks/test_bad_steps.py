"""A loss that is no number on one rank changes nothing on any: all skip the step, and go on after it."""

import math
from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks.runs import write_run
from ranks.wrong import digests_before_and_after, train_through_a_bad_step
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

BAD = 5


@pytest.mark.parametrize(
    "choices",
    [
        *({"zero_stage": stage} for stage in range(4)),
        *({"zero_stage": stage, "precision": "bf16"} for stage in (0, 3)),
        {"zero_stage": 1, "tp": 2},
        {"zero_stage": 2, "sp": 2},
        {"pp": 2},
        {"pp": 2, "precision": "bf16"},
        {"zero_stage": 2, "offload": "optimizer"},
    ],
    ids=lambda choices: "-".join(f"{name}={value}" for name, value in choices.items()),
)
def test_a_bad_step_changes_nothing(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", calm, **choices)
    told = run_ranks(train_through_a_bad_step, Plan.load(RunFolder(run).plan).world_size, run, BAD)
    for results, untouched in told:
        assert untouched
        assert [index for index, step in enumerate(results) if step.skipped] == [BAD]
        # Of tensor-parallel ranks, which compute the same, the first one tells the loss.
        assert math.isnan(results[BAD].loss) or choices.get("tp")
        assert not math.isfinite(results[BAD].grad_norm)
        assert all(math.isfinite(step.loss) and math.isfinite(step.grad_norm) for step in results if not step.skipped)
    # All ranks tell the same; repr, as NaN is not itself.
    assert len({repr(results) for results, _ in told}) == 1


@pytest.mark.parametrize(
    "choices",
    [{"zero_stage": 1}, {"zero_stage": 2, "precision": "bf16"}, {"pp": 2, "cluster": "4xcpu"}],
    ids=lambda choices: "-".join(f"{name}={value}" for name, value in choices.items()),
)
def test_copies_that_came_apart_are_told(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", calm, **choices)
    before, after = run_ranks(digests_before_and_after, Plan.load(RunFolder(run).plan).world_size, run)[0]
    copies = {held: [digest for other, digest in before if other == held] for held, _ in before}
    assert all(len(digests) == 2 and digests[0] == digests[1] for digests in copies.values())
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_zero_3_has_no_two_copies(tmp_path: Path, calm: Path) -> None:
    before, _ = run_ranks(digests_before_and_after, 2, write_run(tmp_path / "run", calm, zero_stage=3))[0]
    assert before == [None, None]
