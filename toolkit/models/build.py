"""The model of a run, as engines take it: checkpointed and adapted as plan and recipe say, weights still on disk."""

from collections.abc import Collection

import torch

from toolkit.errors import SpecError
from toolkit.models.lora import add_lora, set_magnitudes
from toolkit.models.pretrained import checkpoint_activations, load_pretrained
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import trained_faults, trained_weights


def build_model(plan: Plan, recipe: Recipe) -> UnloadedModel:
    """A `transformers` causal language model, or a peft model around one; the engine reads the weights that it needs.

    Raises:
        CheckpointError: the weights are missing, damaged or not of the planned model.
        SpecError: the recipe adapts or freezes what the model does not have, or wants 4-bit weights on a CPU.
        MachineError: 4-bit weights without bitsandbytes.
    """
    work = plan.workload
    if faults := list(trained_faults(plan.model, work)):
        raise SpecError("\n".join(faults))
    if work.method == "qlora" and plan.cluster.device.kind == "cpu":
        raise SpecError("method=qlora: bitsandbytes trains on 4-bit weights on GPUs only; use method=lora on a CPU")
    model = load_pretrained(recipe.model, plan.model, precision=work.weights, new_tokens=work.new_tokens)
    trained = trained_weights(plan.model, work)
    adapters, checkpointed = work.method != "full", plan.strategy.activation_checkpointing != "none"
    if work.method == "qlora":
        # The only part that needs bitsandbytes.
        from toolkit.models.quantised import quantise_layers

        quantise_layers(model, double=recipe.lora.double_quant)
    if checkpointed:
        checkpoint_activations(model.module, adapters=adapters)
    if adapters:
        model.module = add_lora(
            model.module, recipe.lora, rank=work.lora_rank, checkpointed=checkpointed, trained=trained
        )
        model.finish = set_magnitudes
    else:
        freeze_others(model.module, trained)
    return model


def freeze_others(model: torch.nn.Module, trained: Collection[str]) -> None:
    """Let only the named tensors train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
