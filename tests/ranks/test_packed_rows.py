"""Packed rows train as their documents would, a row for each, in every layout; what mixes them is noticed."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from flash_by_hand import flash_attention
from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights
from ranks.reference import reference_run
from ranks.runs import Trained, open_engine, write_run
from ranks.settings import LEARNING_RATES, PACKED_BATCH, SEED
from ranks.tiny import PAD, VOCAB_SIZE, training_packs, training_rows
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines.base import Engine
from toolkit.planner.plan import Plan
from toolkit.preflight.isolation import check_isolation
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "zero2": (2, {"zero_stage": 2}),
    "zero3-recomputed": (2, {"zero_stage": 3, "activation_checkpointing": "full"}),
    "tp2": (2, {"tp": 2, "zero_stage": 1}),
    "sp2": (2, {"sp": 2, "zero_stage": 2}),
    "sp2-recomputed": (2, {"sp": 2, "zero_stage": 1, "activation_checkpointing": "full"}),
    "pp2": (2, {"pp": 2}),
    "pp2-tp2": (4, {"pp": 2, "tp": 2}),
    "mcore-tp2-cp2": (4, {"engine": "mcore", "tp": 2, "cp": 2}),
    "mcore-pp2": (2, {"engine": "mcore", "pp": 2}),
    "mcore-cp2-recomputed": (2, {"engine": "mcore", "cp": 2, "activation_checkpointing": "full"}),
}


def look(engine: Engine, *, rows: int) -> None:
    """What preflight looks at before every run on packed rows."""
    found = check_isolation(engine, rows=rows, vocab_size=VOCAB_SIZE)
    assert found.state == "passed", found.fault


def train_packed(folder: Path) -> Trained:
    """All steps on packed rows, after the look at the attention that every run takes."""
    engine = open_engine(folder)
    strategy = Plan.load(RunFolder(folder).plan).strategy
    share = Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)
    batches = GlobalBatches(training_rows(), share, seed=SEED, pad_token_id=PAD, packs=training_packs())
    look(engine, rows=share.micro_batch)
    steps = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    weights = dict(engine.full_state())
    engine.close()
    return Trained(steps, weights)


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[pytest.mark.soak] if name.endswith("-recomputed") else []) for name in LAYOUTS],
)
def test_packed_rows_are_their_documents(tmp_path: Path, deep: Path, layout: str) -> None:
    ranks, choices = LAYOUTS[layout]
    batch = {"global_batch": PACKED_BATCH, "micro_batch": 1}
    folder = write_run(tmp_path / "run", deep, cluster=f"{ranks}xcpu", **batch, **choices)
    run = run_ranks(train_packed, ranks, folder, timeout_s=120)[0]
    one = reference_run(deep, packed=True)
    assert_equal(run.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(run.weights, one.model, within=1e-5)


def train_packed_with_flash(folder: Path, told: bool) -> Trained:
    """The same with what calls FlashAttention, and its two functions by hand, in micro-batches of several rows."""
    engine: Any = open_engine(folder)
    strategy = Plan.load(RunFolder(folder).plan).strategy
    share = Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)
    batches = GlobalBatches(training_rows(), share, seed=SEED, pad_token_id=PAD, packs=training_packs())
    engine._shares = replace(engine._shares, flash=told)
    with flash_attention(engine._base):
        look(engine, rows=share.micro_batch)
        steps = [engine.train_step(batches.step(step), learning_rate=rate) for step, rate in enumerate(LEARNING_RATES)]
    weights = dict(engine.full_state())
    engine.close()
    return Trained(steps, weights)


def write_packed(folder: Path, model: Path, *, ranks: int, **choices: Any) -> Path:
    return write_run(folder, model, cluster=f"{ranks}xcpu", global_batch=PACKED_BATCH, micro_batch=2, **choices)


@pytest.mark.parametrize(
    ("ranks", "choices"),
    [
        (2, {"zero_stage": 2}),
        pytest.param(2, {"zero_stage": 3, "activation_checkpointing": "full"}, marks=pytest.mark.soak),
        pytest.param(1, {"zero_stage": 0, "loss": "chunked"}, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_flash_attention_keeps_documents_apart(tmp_path: Path, deep: Path, ranks: int, choices: dict[str, Any]) -> None:
    """In micro-batches of two rows, which transformers alone would mix."""
    folder = write_packed(tmp_path / "run", deep, ranks=ranks, **choices)
    run = run_ranks(train_packed_with_flash, ranks, folder, True, timeout_s=120)[0]
    one = reference_run(deep, packed=True)
    assert_equal(run.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(run.weights, one.model, within=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("choices", [{"zero_stage": 2}, {"tp": 2, "zero_stage": 1, "precision": "bf16"}], ids=str)
def test_flash_attention_that_is_not_told_is_refused(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    """With tp in 16 bits, as on GPUs: in fp32 transformers asks a linear layer of torch's for its type."""
    folder = write_packed(tmp_path / "run", untied, ranks=2, **choices)
    run_ranks(train_packed_with_flash, 2, folder, True, timeout_s=120)
    with pytest.raises(
        AssertionError, match=r"AssertionError: preflight: packing: the loss of a document moved from \d"
    ):
        run_ranks(train_packed_with_flash, 2, folder, False, timeout_s=60)


def mixed(folder: Path, part: str) -> None:
    """The look at an attention that does not know where documents begin."""
    engine = open_engine(folder)
    with mock.patch(part, return_value=None):
        look(engine, rows=1)


@pytest.mark.parametrize(
    ("choices", "part"),
    [
        ({"zero_stage": 2}, "transformers.masking_utils.find_packed_sequence_indices"),
        ({"pp": 2}, "transformers.masking_utils.find_packed_sequence_indices"),
        ({"sp": 2}, "toolkit.engines.zero.engine.keep_documents_apart"),
    ],
)
def test_an_attention_that_mixes_documents_is_refused(
    tmp_path: Path, untied: Path, choices: dict[str, Any], part: str
) -> None:
    folder = write_run(tmp_path / "run", untied, **choices)
    with pytest.raises(
        AssertionError, match=r"AssertionError: preflight: packing: the loss of a document moved from \d"
    ):
        run_ranks(mixed, 2, folder, part, timeout_s=60)
