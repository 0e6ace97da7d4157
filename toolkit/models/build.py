"""The model of a run, as engines take it: checkpointed and adapted as plan and recipe say, weights still on disk."""

from collections.abc import Callable, Collection
from typing import Any

import torch

from toolkit.errors import SpecError
from toolkit.models.compiled import compile_layers
from toolkit.models.pretrained import checkpoint_activations, load_pretrained
from toolkit.models.selective import Kept, selective
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import trained_faults, trained_weights


def build_model(plan: Plan, recipe: Recipe) -> UnloadedModel:
    """A `transformers` causal language model, or a peft model around one; the engine reads the weights that it needs.

    Raises:
        CheckpointError: the weights are missing, damaged or not of the planned model.
        SpecError: the recipe adapts or freezes what the model does not have, wants 4-bit weights on a CPU, or
            adapts the head where the loss cannot take that.
        MachineError: 4-bit weights without bitsandbytes.
    """
    work = plan.workload
    if faults := list(trained_faults(plan.model, work)):
        raise SpecError("\n".join(faults))
    if work.method == "qlora" and plan.cluster.device.kind == "cpu":
        raise SpecError("method=qlora: bitsandbytes trains on 4-bit weights on GPUs only; use method=lora on a CPU")
    model = load_pretrained(
        recipe.model, plan.model, precision=work.weights, attention=work.attention, new_tokens=work.new_tokens
    )
    trained = trained_weights(plan.model, work)
    adapters, checkpointed = work.method != "full", plan.strategy.activation_checkpointing != "none"
    if work.method == "qlora":
        # The only part that needs bitsandbytes.
        from toolkit.models.quantised import quantise_layers

        quantise_layers(model, double=recipe.lora.double_quant)
    if checkpointed:
        checkpoint_activations(
            model.module,
            adapters=adapters,
            every=plan.strategy.checkpointing_every,
            to_host=plan.strategy.offload_activations == "cpu",
            pinned=plan.cluster.device.kind != "cpu",
            instead=_selective(plan) if plan.strategy.activation_checkpointing == "selective" else None,
        )
    if adapters:
        # Importing peft takes a rank seconds, which other runs need not wait.
        from toolkit.models.lora import add_lora, set_magnitudes

        model.module = add_lora(
            model.module, recipe.lora, rank=work.lora_rank, checkpointed=checkpointed, trained=trained
        )
        model.finish = set_magnitudes
    else:
        freeze_others(model.module, trained)
    if work.compile:
        compile_layers(model.base)
    if work.loss == "chunked" and type(model.base.lm_head) is not torch.nn.Linear:
        raise SpecError(
            "loss=chunked multiplies by the head's own weight, and this run adapts the head; take lm_head out of "
            "lora.targets, or use loss=full"
        )
    return model


def _selective(plan: Plan) -> Callable[..., Any]:
    """A checkpoint function that keeps the layers' products."""
    tp, work = plan.strategy.layout.tp, plan.workload
    thin = 0 if work.method == "full" else work.lora_rank
    kept = Kept(hidden=plan.model.hidden_size, ffn=plan.model.intermediate_size // tp, tp=tp, thin=thin)
    return selective(kept, compiled=work.compile)


def freeze_others(model: torch.nn.Module, trained: Collection[str]) -> None:
    """Let only the named tensors train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
