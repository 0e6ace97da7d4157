"""Unsloth Studio's estimate of training memory, made for its own kernels."""

from toolkit.planner.setup import Setup
from toolkit.units import GiB

CUDA_OVERHEAD = 1.4 * GiB
"""Driver and runtime, calibrated by its authors on one RTX 5070 Ti."""


def made_for(setup: Setup) -> bool:
    """Adapters on a model that is whole on every device."""
    return setup.method != "full" and setup.tp == setup.pp == 1 and setup.zero_stage == 0


def vram(setup: Setup) -> float | None:
    """Weights + adapters + optimizer + gradients + activations + CUDA, as if on one device."""
    shape = setup.shape
    kept = _kept_weights(setup)
    adapters = setup.adapter_params * shape.num_layers
    trainable = shape.num_params if setup.method == "full" else adapters
    # adamw_8bit 4, adamw_torch 6 bytes per trained parameter; paged states stay in host memory.
    optimizer = trainable * (0.0 if setup.states.optimizer == 0 else 4.0 if setup.states.optimizer < 8 else 6.0)
    live = _activations(setup)
    floor = 0.15 * kept if setup.method == "full" else min(0.15 * kept, max(live, optimizer))
    return kept + 2.0 * adapters + optimizer + max(2.0 * trainable, floor) + live + CUDA_OVERHEAD


def _kept_weights(setup: Setup) -> float:
    """16-bit weights; in QLoRA the linear layers at 2 / 3.6 bytes, its factor for double quantisation."""
    shape = setup.shape
    linear = shape.layer_matmul * shape.num_layers
    other = 2 * shape.hidden * shape.num_layers + shape.embedding_params + shape.head_params
    return 2.0 * linear / (3.6 if setup.method == "qlora" else 1.0) + 2.0 * other


def _activations(setup: Setup) -> float:
    shape = setup.shape
    tokens = setup.seq_len * setup.micro_batch
    layer = tokens * (shape.hidden + 2 * shape.key_value + 2 + 2 * shape.ffn) * 2.0 * 1.25
    if setup.checkpointing == "none":
        return layer * shape.num_layers
    return layer * (2.0 if setup.method == "full" else 1.0)
