"""What a checkpoint belongs to: noise changes the numbers, what only computes them otherwise does not."""

from typing import Any

import pytest

import toolkit
from toolkit.checkpoints.identity import check_identity, identity_of
from toolkit.errors import CheckpointError
from toolkit.specs.recipe import Recipe


def identity(*, neftune_alpha: float | None = None, **choices: Any) -> dict[str, str]:
    plan = toolkit.plan("smollm-135m", "2xcpu", seq_len=512, global_batch=8, **choices)
    recipe = Recipe(model="smollm-135m", workload=plan.workload, neftune_alpha=neftune_alpha)
    model: Any = None  # asked for its weights where adapters are trained only
    return identity_of(plan, recipe, samples="of this test", model=model)


def test_a_run_without_noise_is_what_it_was_before() -> None:
    assert "neftune_alpha" not in identity()


def test_another_noise_is_another_run() -> None:
    check_identity("step-3", identity(neftune_alpha=5), identity(neftune_alpha=5.0))
    for other in (None, 10.0):
        with pytest.raises(CheckpointError, match=r"neftune_alpha was 5\.0, is (not set|10\.0)"):
            check_identity("step-3", identity(neftune_alpha=5.0), identity(neftune_alpha=other))


@pytest.mark.parametrize("choices", [{"loss": "chunked"}, {"checkpointing_every": 2}, {"compile": True}])
def test_how_a_step_is_computed_may_change(choices: dict[str, Any]) -> None:
    check_identity("step-3", identity(), identity(**choices))
