"""What must be the same for a run to go on from a checkpoint; all else (layout, machines, learning rate) may change."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from toolkit.errors import CheckpointError
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import trained_weights

_LATER = ("rslora", "dora", "double_quant")
"""Of the adapters."""


def identity_of(plan: Plan, recipe: Recipe, *, samples: str, model: UnloadedModel) -> dict[str, str]:
    """Name of each condition -> its value in words.

    Args:
        plan: of the run.
        recipe: of the run.
        samples: fingerprint of the training rows, in order.
        model: that training began with; its weights count where they stay frozen.
    """
    work = plan.workload
    found = {
        "model": _digest({name: list(shape) for name, shape in plan.model.weight_shapes.items()}),
        "samples": samples,
        "seed": str(recipe.seed),
        "global_batch": str(work.global_batch),
        "seq_len": str(work.seq_len),
        "method": work.method,
    }
    if work.optimizer != "adamw":  # what checkpoints of earlier releases are of
        found["optimizer"] = work.optimizer
    if recipe.neftune_alpha is not None:
        found["neftune_alpha"] = str(recipe.neftune_alpha)
    if work.method != "full":
        # A checkpoint of an earlier release knows nothing of what was not there.
        fields = type(recipe.lora).model_fields
        later = {name for name in _LATER if getattr(recipe.lora, name) == fields[name].default}
        adapters = recipe.lora.model_dump(mode="json", exclude={"dropout", *later})
        found["adapters"] = json.dumps({"rank": work.lora_rank, **adapters})
    for name in ("modules_to_save", "freeze", "train_only", "new_tokens"):
        if given := getattr(work, name):
            found[name] = json.dumps(sorted(given) if name != "new_tokens" else given)
    if len(trained_weights(plan.model, work)) < len(plan.model.weight_shapes):
        found["base_weights"] = model.fingerprint()
    return found


def check_identity(checkpoint: str, saved: Mapping[str, str], needed: Mapping[str, str]) -> None:
    """Refuse the checkpoint of another run.

    Raises:
        CheckpointError: naming all that differs.
    """
    names = sorted(saved.keys() | needed.keys())
    differing = [
        f"{name} was {saved.get(name, 'not set')}, is {needed.get(name, 'not set')}"
        for name in names
        if saved.get(name) != needed.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint}: of another run: {'; '.join(differing)}; change it back, train in another folder, or give "
            "--overwrite to begin anew"
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
