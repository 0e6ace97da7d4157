"""Parallel = equal: in fp32 each layout's loss, gradient norm and weights are those of one process, at every step.

Measured over 20 steps: loss off by at most 9e-7, norm by 1e-6; with DeepSpeedCPUAdam by 1.3e-6 and 1.2e-6.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.reference import global_batches, reference_run
from ranks.runs import train, train_without, write_run
from ranks.settings import CLIP, GLOBAL_BATCH
from ranks.wrong import train_on_other_rows, train_on_rows_padded_on_the_left

pytestmark = pytest.mark.ranks

LOSS, NORM, WEIGHTS = 3e-6, 1e-5, 1e-5
STAGES = (0, 1, 2, 3)

# Ranks, and what is chosen besides.
REPLICAS: dict[str, tuple[int, dict[str, Any]]] = {
    f"{name}-zero{stage}": (ranks, {"zero_stage": stage, **degrees})
    for name, ranks, degrees in (
        ("tp2", 2, {"tp": 2}),
        ("tp2-dp2", 4, {"tp": 2}),
        ("sp2", 2, {"sp": 2}),
        ("sp2-dp2", 4, {"sp": 2}),
    )
    for stage in (1, 2, 3)
}
PIPELINES: dict[str, tuple[int, dict[str, Any]]] = {
    "pp2": (2, {"pp": 2}),
    "pp4": (4, {"pp": 4}),
    "pp2-dp2": (4, {"pp": 2}),
    "pp2-tp2": (4, {"pp": 2, "tp": 2}),
    "pp2-tp2-dp2": (8, {"pp": 2, "tp": 2}),
}
RECOMPUTED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sp2-zero0": ("untied", 2, {"sp": 2, "zero_stage": 0}),
    "tp2-sp2-zero3": ("wide", 4, {"tp": 2, "sp": 2, "zero_stage": 3}),
    "sp4-zero2": ("wide", 4, {"sp": 4, "zero_stage": 2}),
    "pp3-stages": ("deep", 3, {"pp": 3, "stages": (2, 3, 0)}),
    "pp2-tp2": ("deep", 4, {"pp": 2, "tp": 2}),
}


def check(tmp_path: Path, model: Path, *, timeout_s: float = 120.0, **choices: Any) -> None:
    run = trained(write_run(tmp_path / "run", model, **choices), timeout_s=timeout_s)
    one = reference_run(model, method=choices.get("method", "full"))
    assert_equal(run.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(run.weights, one.model, within=WEIGHTS)


def check_divided(tmp_path: Path, model: Path, *, ranks: int, **choices: Any) -> None:
    """With two micro-batches per step."""
    replicas = ranks // (choices.get("tp", 1) * choices.get("sp", 1) * choices.get("pp", 1))
    check(tmp_path, model, cluster=f"{ranks}xcpu", micro_batch=GLOBAL_BATCH // replicas // 2, **choices)


def of_both(heads: tuple[str, str], layouts: Iterable[str], *, quick: Collection[str]) -> pytest.MarkDecorator:
    """Layouts for a model with a head of its own and a tied one, the harder case; `make soak` tries the rest.

    Args:
        heads: the models.
        layouts: all of them.
        quick: with the tied head; the other one has the first two of them.
    """
    tried = {heads[0]: list(quick)[:2], heads[1]: list(quick)}
    return pytest.mark.parametrize(
        ("which", "layout"),
        [
            pytest.param(which, layout, marks=[] if layout in tried[which] else [pytest.mark.soak])
            for which in heads
            for layout in layouts
        ],
    )


@of_both(
    ("untied", "tied"),
    REPLICAS,
    quick=[
        "tp2-zero3",
        "sp2-zero3",
        "tp2-zero1",
        "tp2-zero2",
        "sp2-zero1",
        "sp2-zero2",
        "tp2-dp2-zero2",
        "sp2-dp2-zero3",
    ],
)
def test_divided_replicas(tmp_path: Path, request: pytest.FixtureRequest, which: str, layout: str) -> None:
    ranks, choices = REPLICAS[layout]
    check_divided(tmp_path, request.getfixturevalue(which), ranks=ranks, **choices)


@of_both(("deep", "deep_tied"), PIPELINES, quick=["pp2", "pp2-tp2", "pp4", "pp2-dp2", "pp2-tp2-dp2"])
def test_pipelines(tmp_path: Path, request: pytest.FixtureRequest, which: str, layout: str) -> None:
    ranks, choices = PIPELINES[layout]
    check_divided(tmp_path, request.getfixturevalue(which), ranks=ranks, **choices)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name in ("sp4-zero2", "tp2-sp2-zero3") else [])
        for name in RECOMPUTED
    ],
)
def test_divided_and_recomputed(tmp_path: Path, request: pytest.FixtureRequest, layout: str) -> None:
    which, ranks, choices = RECOMPUTED[layout]
    check_divided(tmp_path, request.getfixturevalue(which), ranks=ranks, activation_checkpointing="full", **choices)


@pytest.mark.parametrize("stage", STAGES)
def test_zero(tmp_path: Path, untied: Path, stage: int) -> None:
    check(tmp_path, untied, zero_stage=stage)


def test_padding_on_the_left_changes_nothing(tmp_path: Path, untied: Path) -> None:
    folder = write_run(tmp_path / "run", untied, zero_stage=2)
    expected = reference_run(untied).steps[0].loss
    assert run_ranks(train_on_rows_padded_on_the_left, 2, folder) == pytest.approx([expected] * 2, abs=LOSS)


@pytest.mark.parametrize("choices", [{"pp": 2}, {"sp": 2}])
def test_padding_on_the_left_is_refused_where_there_is_no_mask(
    tmp_path: Path, untied: Path, choices: dict[str, Any]
) -> None:
    folder = write_run(tmp_path / "run", untied, **choices)
    with pytest.raises(AssertionError, match=r"EngineError: .*a row is padded on the left; pad rows on the right"):
        run_ranks(train_on_rows_padded_on_the_left, 2, folder)


@pytest.mark.parametrize("stage", STAGES)
def test_tied_embeddings(tmp_path: Path, tied: Path, stage: int) -> None:
    check(tmp_path, tied, zero_stage=stage)


@pytest.mark.parametrize("stage", [0, 3])
def test_four_micro_batches_are_one_of_four_times_the_size(tmp_path: Path, untied: Path, stage: int) -> None:
    for micro_batch in (1, 4):
        check(tmp_path / str(micro_batch), untied, zero_stage=stage, micro_batch=micro_batch)


@pytest.mark.parametrize("stage", [0, 3])
def test_activation_checkpointing(tmp_path: Path, untied: Path, stage: int) -> None:
    check(tmp_path, untied, zero_stage=stage, activation_checkpointing="full")


# DeepSpeedCPUAdam is compiled on first use: 50 s on two idle cores.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "all"},
        pytest.param({"zero_stage": 3, "offload": "optimizer"}, marks=pytest.mark.soak),
        pytest.param({"zero_stage": 2, "offload": "optimizer", "tp": 2}, marks=pytest.mark.soak),
        pytest.param({"zero_stage": 2, "offload": "optimizer", "sp": 2}, marks=pytest.mark.soak),
        {"offload": "optimizer", "pp": 2},
    ],
    ids=str,
)
def test_offload(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    check(tmp_path, untied, timeout_s=500, **choices)


@pytest.mark.parametrize(
    ("choices", "recompute"),
    [
        ({"zero_stage": 2}, "none"),
        ({"zero_stage": 3}, "full"),
        ({"zero_stage": 2, "sp": 2}, "full"),
        ({"pp": 2}, "none"),
        ({"pp": 2}, "full"),
    ],
    ids=str,
)
def test_lora_equals_peft(tmp_path: Path, untied: Path, choices: dict[str, Any], recompute: str) -> None:
    check(tmp_path, untied, method="lora", activation_checkpointing=recompute, **choices)


@pytest.mark.parametrize("choices", [{"pp": 2}, {"tp": 2, "zero_stage": 1}], ids=str)
def test_a_window_of_tokens_is_kept(tmp_path: Path, windowed: Path, choices: dict[str, Any]) -> None:
    check(tmp_path, windowed, **choices)


def test_sequence_parallelism_refuses_a_window(tmp_path: Path, windowed: Path) -> None:
    run = write_run(tmp_path / "run", windowed, zero_stage=1, sp=2)
    told = (
        r"SpecError: sp=2: this model's tokens see the 12 before them, seq_len is 48.+ use sp=1, or seq_len=12 or less"
    )
    with pytest.raises(AssertionError, match=told):
        run_ranks(train, 2, run)


# Each fault as a function that does nothing, or not enough, and a layout in which it shows.
FAULTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "a stage clips by its own norm": (
        "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer._model_parallel_all_reduce",
        None,
        {"pp": 2},
    ),
    "a tensor-parallel rank clips by its own norm": (
        "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer._model_parallel_all_reduce",
        None,
        {"tp": 2, "zero_stage": 1},
    ),
    "embedding and head add no gradients up": (
        "deepspeed.runtime.pipe.module.PipelineModule.get_tied_weights_and_groups",
        (),
        {"pp": 2},
    ),
    "accumulation is forgotten in a pipeline": (
        "toolkit.engines.pipeline.engine.loss_factor",
        torch.tensor(1 / 8),
        {"pp": 2},
    ),
    "accumulation is forgotten": ("toolkit.engines.zero.engine.loss_factor", torch.tensor(1 / 8), {"zero_stage": 2}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(tmp_path: Path, tied: Path, fault: str) -> None:
    part, instead, choices = FAULTS[fault]
    steps = run_ranks(train_without, 2, part, instead, write_run(tmp_path / "run", tied, **choices))[0]
    with pytest.raises(AssertionError, match="off by"):
        assert_equal(steps, reference_run(tied).steps, loss=LOSS, norm=NORM)


@pytest.mark.parametrize(("choices", "ranks"), [({"tp": 2, "zero_stage": 1}, 2), ({"tp": 2, "pp": 2}, 4)])
def test_ranks_of_one_replica_that_see_other_rows_are_noticed(
    tmp_path: Path, untied: Path, choices: dict[str, Any], ranks: int
) -> None:
    run = write_run(tmp_path / "run", untied, cluster=f"{ranks}xcpu", **choices)
    steps = run_ranks(train_on_other_rows, ranks, run, 1)[0]
    with pytest.raises(AssertionError, match="off by"):
        assert_equal(steps, reference_run(untied).steps, loss=LOSS, norm=NORM)


def test_deepspeed_compares_the_first_rows_of_tensor_parallel_ranks(tmp_path: Path, untied: Path) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=1, tp=2)
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
