"""A chunked loss trains as the plain one in every layout: with a head in parts, gathered, tied, frozen, in 16 bits."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights
from ranks.reference import reference_run
from ranks.runs import Trained, batches_of, edited_ds_config, open_engine, train, write_run
from ranks.test_low_precision import LORA_TOLERANCES, TOLERANCES, write_low
from ranks.test_parity import LOSS, NORM, WEIGHTS
from ranks.tiny import SEQ_LEN
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

LAYOUTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "zero0": ("tied", 2, {"zero_stage": 0}),
    "zero1": ("untied", 2, {"zero_stage": 1}),
    "zero3": ("untied", 2, {"zero_stage": 3}),
    "zero3-tied-recomputed": ("tied", 2, {"zero_stage": 3, "activation_checkpointing": "full"}),
    "tp2-zero1": ("untied", 2, {"tp": 2, "zero_stage": 1}),
    "tp2-dp2-zero3": ("tied", 4, {"tp": 2, "zero_stage": 3}),
    "sp2-zero2": ("untied", 2, {"sp": 2, "zero_stage": 2}),
    "pp2-tied": ("deep_tied", 2, {"pp": 2, "activation_checkpointing": "full"}),
    "pp2-tp2": ("deep", 4, {"pp": 2, "tp": 2}),
    "offload": ("untied", 2, {"zero_stage": 3, "offload": "all"}),
    "lora-zero3": ("untied", 2, {"zero_stage": 3, "method": "lora"}),
    "lora-pp2": ("untied", 2, {"pp": 2, "method": "lora"}),
}


def train_in_blocks(folder: Path) -> Trained:
    """As `train`, with blocks of 20 columns: the last one of 96, or of a rank's 48, is smaller."""
    with (
        mock.patch("toolkit.specs.workload.LOSS_BLOCK_NUMBERS", 1),
        mock.patch("toolkit.specs.workload.LOSS_BLOCK_COLUMNS", 20),
    ):
        return train(folder)


def trained_in_blocks(folder: Path) -> Trained:
    if Plan.load(RunFolder(folder).plan).strategy.zero_stage == 3:
        with edited_ds_config(folder) as config:
            # Else so small a head would never leave the ranks, and nothing would be gathered.
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    world_size = Plan.load(RunFolder(folder).plan).world_size
    first: Trained = run_ranks(train_in_blocks, world_size, folder, timeout_s=120)[0]
    return first


# Whole, gathered and divided heads, a tied one, and hidden states that come from another stage.
QUICK = ("zero0", "zero3-tied-recomputed", "tp2-zero1", "sp2-zero2", "pp2-tp2")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.soak]) for name in LAYOUTS]
)
def test_equals_one_process(tmp_path: Path, request: pytest.FixtureRequest, layout: str) -> None:
    which, ranks, choices = LAYOUTS[layout]
    model = request.getfixturevalue(which)
    run = trained_in_blocks(write_run(tmp_path / "run", model, cluster=f"{ranks}xcpu", loss="chunked", **choices))
    one = reference_run(model, method=choices.get("method", "full"))
    assert_equal(run.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(run.weights, one.model, within=WEIGHTS)


@pytest.mark.parametrize(
    ("precision", "choices"),
    [
        ("fp16", {"zero_stage": 3}),
        *(
            pytest.param(precision, choices, marks=pytest.mark.soak)
            for precision, choices in (
                ("fp16", {"zero_stage": 0}),
                ("fp16", {"tp": 2, "zero_stage": 2}),
                ("fp16", {"pp": 2}),
                ("bf16", {"zero_stage": 2}),
                ("bf16", {"tp": 2, "pp": 2, "cluster": "4xcpu"}),
            )
        ),
    ],
    ids=str,
)
def test_equals_one_process_in_16_bits(tmp_path: Path, calm: Path, precision: str, choices: dict[str, Any]) -> None:
    run = trained_in_blocks(write_low(tmp_path / "run", calm, precision=precision, loss="chunked", **choices))
    assert_equal(run.steps, reference_run(calm, precision=precision).steps, **TOLERANCES[precision])


@pytest.mark.soak
def test_a_frozen_head_in_bf16(tmp_path: Path, calm: Path) -> None:
    choices = {"precision": "bf16", "zero_stage": 3, "method": "lora"}
    run = trained_in_blocks(write_low(tmp_path / "run", calm, loss="chunked", **choices))
    assert_equal(run.steps, reference_run(calm, precision="bf16", method="lora").steps, **LORA_TOLERANCES)


def losses_and_answers(folder: Path) -> tuple[float, list[list[int]]]:
    """Of a model that has not been trained: held-out loss, and answers to prompts."""
    engine = open_engine(folder)
    batch = batches_of(folder, engine).step(1)[0]
    prompt = {name: batch[name][:, : SEQ_LEN // 8] for name in ("input_ids", "attention_mask")}
    found = engine.eval_loss([batch]), engine.generate([prompt], max_new_tokens=4, stop_token_ids=[2])
    engine.close()
    return found


@pytest.mark.parametrize(
    "choices",
    [
        {"pp": 2},
        *(pytest.param(one, marks=pytest.mark.soak) for one in ({"zero_stage": 3}, {"tp": 2, "zero_stage": 1})),
    ],
    ids=str,
)
def test_evaluates_and_answers_as_with_the_plain_one(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    (plain, answers), (chunked, same) = (
        run_ranks(losses_and_answers, 2, write_run(tmp_path / loss, untied, loss=loss, **choices))[0]
        for loss in ("full", "chunked")
    )
    assert chunked == pytest.approx(plain, abs=LOSS)
    assert same == answers
