"""Autocast, weights and states in bf16 alone, and fp16 with a static loss scale equal one process that does the same.

Measured on two ranks, the largest of 20 steps, loss in nats and norm as a part of it: autocast 3.1e-4 to 6.9e-4 and
1.8e-3 to 4.4e-3 (with LoRA 2.8e-4 and 7.6e-3), bf16 alone 3.3e-4 to 7.1e-4 and 1.6e-3 to 4.3e-3, a static scale 7e-5 to
1.3e-4 and 5e-4 to 1e-3: as far as with master weights.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.equality import assert_equal, trained
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import edited_ds_config, types_held, write_run
from ranks.runs import train as train_all
from ranks.test_low_precision import LORA_TOLERANCES, TOLERANCES

pytestmark = pytest.mark.ranks

SOAK = pytest.mark.soak


def case(mixed: str, *, quick: bool = False, **choices: Any) -> Any:
    """One layout; all but a few of them are for the long tier."""
    words = "-".join([mixed, *(f"{name}{value}" for name, value in choices.items())])
    return pytest.param({"mixed": mixed, **choices}, id=words, marks=() if quick else SOAK)


@pytest.mark.parametrize(
    "choices",
    [
        case("autocast", zero_stage=0),
        case("autocast", zero_stage=1),
        case("autocast", zero_stage=2, activation_checkpointing="full"),
        case("autocast", zero_stage=3, quick=True),
        case("autocast", zero_stage=2, tp=2),
        case("autocast", zero_stage=1, sp=2),
        case("autocast", pp=2),
        case("autocast", zero_stage=3, offload="all"),
        case("autocast", zero_stage=2, method="lora"),
        case("none", zero_stage=1),
        case("none", zero_stage=2, quick=True),
        case("none", zero_stage=3),
        case("none", zero_stage=3, tp=2),
        case("none", zero_stage=3, sp=2),
        case("none", pp=2),
        case("none", zero_stage=3, method="lora"),
    ],
)
def test_equals_one_process(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    method = choices.get("method", "full")
    run = write_run(tmp_path / "run", calm, precision="bf16", **choices)
    one = reference_run(calm, precision="bf16", mixed=choices["mixed"], method=method)
    found = trained(run)
    assert_equal(found.steps, one.steps, **(TOLERANCES["bf16"] if method == "full" else LORA_TOLERANCES))
    kept = torch.float32 if choices["mixed"] == "autocast" else torch.bfloat16
    assert {weight.dtype for weight in found.weights.values()} == {kept}


def test_gradients_sent_in_bf16_are_told(tmp_path: Path, calm: Path) -> None:
    """Where ds_config.json names no modules, DeepSpeed sends the gradients of all linear layers so."""
    run = write_run(tmp_path / "run", calm, precision="bf16", mixed="autocast", zero_stage=2)
    with edited_ds_config(run) as config:
        del config["torch_autocast"]["lower_precision_safe_modules"]
    held = run_ranks(types_held, 2, run)[0]
    assert held.note == (
        "numbers: weights fp32 (rounded to bf16 within autocast); gradients fp32, sent in bf16 and fp32; optimizer's "
        "weights fp32, moments like them"
    )
    assert held.optimizer == {torch.float32}
    assert held.answering == {torch.bfloat16}


@pytest.mark.parametrize("choices", [{"zero_stage": 2}, pytest.param({"zero_stage": 3}, marks=SOAK)], ids=str)
def test_bf16_alone_goes_on_bit_for_bit(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    """Files are fp32, which holds every number of bf16."""
    run, store = write_run(tmp_path / "run", calm, precision="bf16", mixed="none", **choices), tmp_path / "store"
    begun = run_ranks(first_half, 2, run, store, 8, True)[0]
    gone_on = run_ranks(second_half, 2, run, store)[0]
    assert begun.steps[8:] == gone_on.steps
    assert all(torch.equal(begun.weights[name], weight) for name, weight in gone_on.weights.items())
    assert begun.weights.keys() == gone_on.weights.keys()
    held = run_ranks(types_held, 2, run)[0]
    assert held.note.startswith("numbers: weights bf16; gradients bf16, sent in bf16; optimizer's weights bf16, ")
    assert held.optimizer == {torch.bfloat16}


def static(folder: Path, model: Path, *, scale: float, **choices: Any) -> Path:
    run = write_run(folder, model, precision="fp16", **choices)
    with edited_ds_config(run) as config:
        config["fp16"]["loss_scale"] = scale
    return run


in_every_layout = pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 0},
        *(pytest.param({"zero_stage": stage}, marks=SOAK) for stage in (1, 2, 3)),
        pytest.param({"zero_stage": 2, "tp": 2}, marks=SOAK),
        pytest.param({"pp": 2}, marks=SOAK),
    ],
    ids=str,
)


@in_every_layout
def test_a_static_loss_scale(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    results = trained(static(tmp_path / "run", calm, scale=256, **choices)).steps
    assert_equal(results, reference_run(calm, precision="fp16").steps, **TOLERANCES["fp16"])
    assert {(result.loss_scale, result.static_scale) for result in results} == {(256.0, True)}


@in_every_layout
def test_overflows_at_a_static_loss_scale_leave_no_trace(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    run = static(tmp_path / "run", calm, scale=2.0**24, **choices)
    found = run_ranks(train_all, 2, run)[0]
    assert all(result.skipped and result.loss_scale == 2.0**24 for result in found.steps)
    before = reference_run(calm, precision="fp16", num_steps=0).model.state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in found.weights.items())
