"""Parallel = equal: in fp32 each layout's loss and gradient norm are those of one process, at every step.

Measured over 20 steps: loss off by at most 9e-7, norm by 1e-6; with DeepSpeedCPUAdam by 1.3e-6 and 1.2e-6.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.equality import assert_equal, results_of
from ranks.reference import global_batches, reference_run
from ranks.settings import CLIP
from ranks.zero_runs import train_on_other_rows, write_run

pytestmark = pytest.mark.ranks

LOSS, NORM = 1e-5, 1e-4
STAGES = (0, 1, 2, 3)


def check(tmp_path: Path, model: Path, **choices: Any) -> None:
    method = choices.get("method", "full")
    results = results_of(write_run(tmp_path / "run", model, **choices))
    assert_equal(results, reference_run(model, method=method).steps, loss=LOSS, norm=NORM)


@pytest.mark.parametrize("stage", STAGES)
def test_zero(tmp_path: Path, untied: Path, stage: int) -> None:
    check(tmp_path, untied, zero_stage=stage)


@pytest.mark.parametrize("stage", STAGES)
def test_tied_embeddings(tmp_path: Path, tied: Path, stage: int) -> None:
    check(tmp_path, tied, zero_stage=stage)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_four_micro_batches_are_one_of_four_times_the_size(tmp_path: Path, untied: Path, stage: int) -> None:
    for micro_batch in (1, 4):
        check(tmp_path / str(micro_batch), untied, zero_stage=stage, micro_batch=micro_batch)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_activation_checkpointing(tmp_path: Path, untied: Path, stage: int) -> None:
    check(tmp_path, untied, zero_stage=stage, activation_checkpointing="full")


# DeepSpeedCPUAdam is compiled on first use: 50 s on two idle cores.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")])
def test_offload(tmp_path: Path, untied: Path, stage: int, offload: str) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=stage, offload=offload)
    assert_equal(results_of(run, timeout_s=500), reference_run(untied).steps, loss=LOSS, norm=NORM)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", [2, 3])
def test_lora_equals_peft(tmp_path: Path, untied: Path, stage: int, recompute: bool) -> None:
    check(tmp_path, untied, zero_stage=stage, method="lora", activation_checkpointing="full" if recompute else "none")


@pytest.mark.parametrize("which", ["untied", "tied"])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("degree", ["tp", "sp"])
@pytest.mark.parametrize("dp", [1, 2])
def test_divided_replicas(
    tmp_path: Path, request: pytest.FixtureRequest, which: str, stage: int, degree: str, dp: int
) -> None:
    model = request.getfixturevalue(which)
    check(tmp_path, model, zero_stage=stage, cluster=f"{2 * dp}xcpu", **{degree: 2})


@pytest.mark.parametrize("stage", [1, 3])
def test_tensor_and_sequence_parallel(tmp_path: Path, deep: Path, stage: int) -> None:
    check(tmp_path, deep, zero_stage=stage, cluster="4xcpu", tp=2, sp=2, activation_checkpointing="full")


PIPELINES = {
    "pp2": (2, {"pp": 2}),
    "pp4": (4, {"pp": 4}),
    "pp2-dp2": (4, {"pp": 2}),
    "pp2-tp2": (4, {"pp": 2, "tp": 2}),
    "pp2-tp2-dp2": (8, {"pp": 2, "tp": 2}),
}
"""Ranks and degrees of what the pipeline engine divides."""


@pytest.mark.parametrize("layout", PIPELINES)
@pytest.mark.parametrize("which", ["deep", "deep_tied"])
def test_pipelines(tmp_path: Path, request: pytest.FixtureRequest, which: str, layout: str) -> None:
    ranks, degrees = PIPELINES[layout]
    model = request.getfixturevalue(which)
    check(tmp_path, model, engine="pipeline", cluster=f"{ranks}xcpu", micro_batch=1, **degrees)


def test_ranks_of_one_replica_that_see_other_rows_are_noticed(tmp_path: Path, untied: Path) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=1, tp=2)
    steps = run_ranks(train_on_other_rows, 2, run, 1)[0]
    with pytest.raises(AssertionError, match="off by"):
        assert_equal(steps, reference_run(untied).steps, loss=LOSS, norm=NORM)
    # DeepSpeed compares the ranks' first micro-batches itself.
    with pytest.raises(AssertionError, match="Data inconsistency within the TP group"):
        run_ranks(train_on_other_rows, 2, run, 0)


def test_the_comparison_sees_what_it_should(untied: Path) -> None:
    """Every step is clipped, clipping matters, and rows and micro-batches differ in their supervised tokens."""
    steps = reference_run(untied).steps
    assert all(step.grad_norm > 2 * CLIP for step in steps)
    unclipped = reference_run(untied, clip=1e9).steps
    assert max(abs(a.loss - b.loss) for a, b in zip(steps, unclipped, strict=True)) > 100 * LOSS
    tokens = torch.cat([(batch["labels"] != -100).sum(dim=1) for batch in global_batches(4)])
    assert tokens.max() > 8 * tokens[tokens > 0].min()
    # An epoch's last batch: in micro-batches of 2 rows the second rank's last one is empty.
    assert (tokens[-2:] == 0).all()
