"""Weights, gradients and optimizer states of one rank."""

from typing import NamedTuple

from toolkit.planner.memory.stages import stage_layers, stage_params, stage_trained
from toolkit.planner.setup import Setup


class States(NamedTuple):
    """Bytes that stay from step to step, and parameters they belong to."""

    weights: float
    gradients: float
    optimizer: float
    trainable: float
    """Parameters of this rank that get a gradient, before ZeRO divides them."""
    updated: float
    """Parameters that this rank's optimizer updates."""


def end_bytes(setup: Setup) -> float:
    """Bytes of a frozen weight of embedding and head: quantisation takes the linear layers of decoder layers only."""
    if setup.method != "qlora":
        return setup.states.frozen
    return max(setup.profile.memory.qlora_end_bytes, setup.states.weight)


def states_of(setup: Setup, stage: int) -> States:
    """What ZeRO leaves on a rank (Rajbhandari et al., 1910.02054, figure 1 and section 5).

    Stage 1 divides optimizer states by the ranks that hold the same weights, 2 also gradients, 3 also weights.
    Offloading moves optimizer states (and with stages 2 and 3 gradients, as each is reduced) to the host; `all` weights
    too.
    """
    layer_params, end_params = stage_params(setup, stage)
    zero, shards, sizes = setup.zero_stage, setup.shards, setup.states
    trainable: float = sum(stage_trained(setup, stage))
    if setup.method == "full":
        weights = sizes.weight * (layer_params + end_params)
    else:
        added = stage_layers(setup)[stage] * setup.adapter_params / setup.tp
        if stage == setup.pp - 1:
            added += setup.head_adapter_params
        if setup.trained_ends:
            # peft's modules_to_save trains copies and keeps the originals.
            added += end_params
        trainable += added
        weights = sizes.frozen * layer_params + end_bytes(setup) * end_params + sizes.weight * added
    updated = trainable / (shards if zero >= 1 else 1)
    with_grads = layer_params + trainable if setup.frozen_grads else trainable
    gradients = sizes.grad * with_grads / (shards if zero >= 2 else 1)
    optimizer = sizes.optimizer * updated
    if zero >= 3:
        weights /= shards
    if setup.offload != "none":
        optimizer, gradients = 0.0, gradients if zero < 2 else 0.0
        weights = 0.0 if setup.offload == "all" else weights
    return States(weights, gradients, optimizer, trainable, updated)
