"""NEFTune: every layout draws the noise of one process, training alone gets any, and a run that goes on the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.reference import global_batches, reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import batches_of, open_engine, write_run
from ranks.test_resume import STOP, assert_bit_equal, run

pytestmark = pytest.mark.ranks

ALPHA = 0.5
"""Noise as large as these models' embeddings; ten times that lets roundings grow to 1.03e-5 in one weight."""
LAYOUTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "zero0": ("untied", 2, {"zero_stage": 0}),
    "zero2-rows-of-one": ("untied", 2, {"zero_stage": 2, "micro_batch": 1}),
    "zero3-recomputed": ("tied", 2, {"zero_stage": 3, "activation_checkpointing": "full"}),
    "tp2-dp2": ("tied", 4, {"tp": 2, "zero_stage": 1}),
    "sp2": ("untied", 2, {"sp": 2, "zero_stage": 1}),
    "pp2-tied": ("deep_tied", 2, {"pp": 2}),
    "pp2-tp2": ("deep", 4, {"pp": 2, "tp": 2}),
    "lora-zero2-recomputed": ("untied", 2, {"zero_stage": 2, "method": "lora", "activation_checkpointing": "full"}),
    "lora-pp2": ("untied", 2, {"pp": 2, "method": "lora"}),
}


QUICK = ("zero3-recomputed", "sp2", "pp2-tp2", "lora-zero2-recomputed")


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.soak]) for name in LAYOUTS]
)
def test_equals_one_process(tmp_path: Path, request: pytest.FixtureRequest, layout: str) -> None:
    which, ranks, choices = LAYOUTS[layout]
    model = request.getfixturevalue(which)
    here = trained(write_run(tmp_path / "run", model, cluster=f"{ranks}xcpu", neftune_alpha=ALPHA, **choices))
    one = reference_run(model, method=choices.get("method", "full"), alpha=ALPHA)
    assert_equal(here.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(here.weights, one.model, within=1e-5)


def test_noise_makes_a_difference(untied: Path) -> None:
    """Else the test above would pass without it."""
    plain, noised = (reference_run(untied, alpha=alpha).steps for alpha in (None, ALPHA))
    assert all(abs(a.loss - b.loss) > 1e-4 for a, b in zip(plain, noised, strict=True))


@pytest.mark.parametrize("choices", [{"zero_stage": 2}, pytest.param({"pp": 2}, marks=pytest.mark.soak)], ids=str)
def test_goes_on_bit_for_bit(tmp_path: Path, deep: Path, choices: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "run", deep, neftune_alpha=ALPHA, **choices)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


def held_out_loss(folder: Path) -> float:
    """Of a training batch before training, seeds of noise and all."""
    engine = open_engine(folder)
    loss = engine.eval_loss([{**batches_of(folder, engine).step(0)[0]}])
    engine.close()
    return loss


@pytest.mark.parametrize("choices", [{"pp": 2}, pytest.param({"zero_stage": 1}, marks=pytest.mark.soak)], ids=str)
def test_evaluation_gets_none(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    plain, noised = (
        run_ranks(held_out_loss, 2, write_run(tmp_path / str(alpha), untied, neftune_alpha=alpha, **choices))[0]
        for alpha in (None, ALPHA)
    )
    assert noised == plain


def test_rows_of_a_step_draw_differently() -> None:
    seeds = torch.cat([batch["noise_seeds"] for batch in global_batches(8)])
    rows = seeds[seeds != 0].tolist()
    assert len(rows) == 58
    assert len(set(rows)) == len(rows)
