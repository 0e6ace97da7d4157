"""Layers checkpointed in part, every k-th of them, inputs on the host: bit for bit what the layout computes without."""

from pathlib import Path
from typing import Any

import pytest

from ranks.equality import trained
from ranks.runs import divide_everything, edited_ds_config, write_run

pytestmark = pytest.mark.ranks

PARTS: dict[str, Any] = {"checkpointing_every": 2, "offload_activations": "cpu"}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero0": ({"zero_stage": 0}, PARTS),
    "zero3": ({"zero_stage": 3}, PARTS),
    "tp2": ({"zero_stage": 1, "tp": 2}, PARTS),
    "sp2": ({"zero_stage": 2, "sp": 2}, {"checkpointing_every": 3}),
    "pp2": ({"pp": 2}, PARTS),
    "lora": ({"zero_stage": 2, "method": "lora"}, PARTS),
    "lora-pp2": ({"pp": 2, "method": "lora"}, {"offload_activations": "cpu"}),
}


QUICK = ("pp2",)


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.soak]) for name in LAYOUTS]
)
def test_nothing_changes(tmp_path: Path, deep: Path, layout: str) -> None:
    choices, recompute = LAYOUTS[layout]
    plain = trained(write_run(tmp_path / "plain", deep, **choices))
    asked = write_run(tmp_path / "asked", deep, **choices, activation_checkpointing="full", **recompute)
    again = trained(asked)
    assert again.steps == plain.steps
    assert all((again.weights[name] == weight).all() for name, weight in plain.weights.items())


SELECTIVE: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero2-chunked": {"zero_stage": 2, "loss": "chunked"},
    "zero3": {"zero_stage": 3, "checkpointing_every": 2},
    "zero3-offload": {"zero_stage": 3, "offload": "all"},
    "tp2": {"zero_stage": 1, "tp": 2},
    "sp2": {"zero_stage": 2, "sp": 2},
    "pp2": {"pp": 2, "checkpointing_every": 3},
    "pp2-tp2": {"pp": 2, "tp": 2, "cluster": "4xcpu"},
    "eager": {"zero_stage": 1, "attention": "eager"},
    "autocast": {"zero_stage": 2, "precision": "bf16", "mixed": "autocast"},
    "lora": {"zero_stage": 2, "method": "lora"},
    "lora-zero3": {"zero_stage": 3, "method": "lora"},
    "lora-pp2": {"pp": 2, "method": "lora"},
}


def gather_again(folder: Path) -> None:
    """Let ZeRO-3 keep no weight from the forward to the backward pass: it gathers others inside a layer in each."""
    divide_everything(folder)
    with edited_ds_config(folder) as content:
        zero = content["zero_optimization"]
        zero |= {"stage3_prefetch_bucket_size": 10**7, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name == "tp2" else [pytest.mark.soak]) for name in SELECTIVE]
)
def test_nothing_changes_if_products_are_kept(tmp_path: Path, deep: Path, layout: str) -> None:
    choices = {"activation_checkpointing": "none", **SELECTIVE[layout]}
    every = choices.pop("checkpointing_every", 1)
    plain = trained(write_run(tmp_path / "plain", deep, **choices))
    asked = {**choices, "activation_checkpointing": "selective", "checkpointing_every": every}
    run = write_run(tmp_path / "asked", deep, **asked)
    if choices.get("zero_stage") == 3:
        gather_again(run)
    again = trained(run)
    assert again.steps == plain.steps
    assert all((again.weights[name] == weight).all() for name, weight in plain.weights.items())
