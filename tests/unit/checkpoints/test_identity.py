"""A run goes on only with the tensors and tokens that it began with; older checkpoints go on as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.checkpoints.identity import check_identity, identity_of
from toolkit.errors import CheckpointError
from toolkit.models.build import build_model
from toolkit.specs.lora import LoraConfig
from toolkit.specs.recipe import Recipe


def identity(
    base: Path, *, lora: dict[str, Any] | None = None, neftune_alpha: float | None = None, **choices: Any
) -> dict[str, str]:
    plan = toolkit.plan(base, "2xcpu", seq_len=32, global_batch=4, **choices)
    recipe = Recipe(
        model=str(base), workload=plan.workload, lora=LoraConfig(**(lora or {})), neftune_alpha=neftune_alpha
    )
    return identity_of(plan, recipe, samples="", model=build_model(plan, recipe))


BOTH = {"method": "lora", "modules_to_save": ("embed_tokens", "lm_head")}


@pytest.mark.parametrize(
    ("saved", "now", "told"),
    [
        ({"freeze": ("*layers.0.*",)}, {}, r"freeze was \[\"\*layers\.0\.\*\"\], is not set"),
        ({}, {"train_only": ("*layers.0.*",)}, "train_only was not set, is"),
        (BOTH, {"method": "lora"}, "modules_to_save was"),
        ({"method": "lora", "lora": {"dora": True}}, {"method": "lora"}, "adapters was"),
        ({"new_tokens": ("<a>",)}, {"new_tokens": ("<b>",)}, "new_tokens was"),
        ({"new_tokens": ("<a>",)}, {}, "model was"),
    ],
    ids=str,
)
def test_a_change_is_refused(base: Path, saved: dict[str, Any], now: dict[str, Any], told: str) -> None:
    before, after = identity(base, **saved), identity(base, **now)
    check_identity("here", before, dict(before))
    with pytest.raises(CheckpointError, match=told):
        check_identity("here", before, after)


def test_frozen_weights_belong_to_a_run(base: Path) -> None:
    assert "base_weights" not in identity(base)
    assert "base_weights" in identity(base, freeze=("*embed_tokens*",))


def test_a_checkpoint_of_an_earlier_release_goes_on(base: Path) -> None:
    assert identity(base).keys() == {"model", "samples", "seed", "global_batch", "seq_len", "method"}
    told = json.loads(identity(base, method="lora")["adapters"])
    assert told.keys() == {"rank", "alpha", "targets"}


def test_another_noise_is_another_run(base: Path) -> None:
    assert "neftune_alpha" not in identity(base)
    noised = identity(base, neftune_alpha=5.0)
    check_identity("step-3", identity(base, neftune_alpha=5), noised)
    for other in (None, 10.0):
        with pytest.raises(CheckpointError, match=r"neftune_alpha was 5\.0, is (not set|10\.0)"):
            check_identity("step-3", noised, identity(base, neftune_alpha=other))


@pytest.mark.parametrize("choices", [{"loss": "chunked"}, {"compile": True}], ids=str)
def test_how_a_step_is_computed_may_change(base: Path, choices: dict[str, Any]) -> None:
    check_identity("step-3", identity(base), identity(base, **choices))
