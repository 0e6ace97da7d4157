"""The model of a run, as engines take it: checkpointed and adapted as plan and recipe say, weights still on disk."""

import torch

from toolkit.errors import SpecError
from toolkit.models.compiled import compile_layers
from toolkit.models.lora import add_lora
from toolkit.models.pretrained import checkpoint_activations, load_pretrained
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe


def build_model(plan: Plan, recipe: Recipe) -> UnloadedModel:
    """A `transformers` causal language model, or a peft model around one; the engine reads the weights that it needs.

    Raises:
        CheckpointError: the weights are missing, damaged or not of the planned model.
        SpecError: the recipe adapts layers that the model does not have, or the head where the loss cannot take that,
            or wants 4-bit weights.
    """
    if plan.workload.method == "qlora":
        raise SpecError("method=qlora: this release trains adapters on 16-bit weights only; use method=lora")
    work = plan.workload
    model = load_pretrained(recipe.model, plan.model, precision=work.precision, attention=work.attention)
    adapters, checkpointed = plan.workload.method == "lora", plan.strategy.activation_checkpointing != "none"
    if checkpointed:
        checkpoint_activations(
            model.module,
            adapters=adapters,
            every=plan.strategy.checkpointing_every,
            to_host=plan.strategy.offload_activations == "cpu",
            pinned=plan.cluster.device.kind != "cpu",
        )
    if adapters:
        rank = plan.workload.lora_rank
        model.module = add_lora(model.module, recipe.lora, rank=rank, checkpointed=checkpointed)
    if plan.workload.compile:
        compile_layers(model.base)
    if plan.workload.loss == "chunked" and type(model.base.lm_head) is not torch.nn.Linear:
        raise SpecError(
            "loss=chunked multiplies by the head's own weight, and this run adapts the head; take lm_head out of "
            "lora.targets, or use loss=full"
        )
    return model
