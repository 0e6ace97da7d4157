"""What a training process on processors keeps beside its states: there is no caching allocator, only the C library's.

glibc gives back what was mapped by itself, tensors of 32 MiB and more, and little of the rest: what one moment of the
step has left free is taken again by another only where it is large enough. So memory grows to about the sum of what a
GPU's peak is the maximum of. The constants were measured on Hugging Face LLaMAs of 16M and 47M parameters, two ranks,
fp32, ZeRO 0 to 3: resident size around every forward pass, backward pass and step, live tensors, malloc_info.
"""

from typing import NamedTuple

from toolkit.planner.memory.states import States
from toolkit.planner.setup import Setup
from toolkit.units import MiB

HOLES = 1.2
"""Heap over what lives in it at most: activations freed and allocated again in another order leave holes."""
MAPPED_ALONE = 32 * MiB
"""Tensors from this size on go back to the system when they are freed (glibc's DEFAULT_MMAP_THRESHOLD_MAX)."""
PROCESS_BYTES = {0: 50 * MiB, 1: 100 * MiB, 2: 100 * MiB, 3: 120 * MiB}
"""By ZeRO stage: code of the libraries that training loads, Python objects, heaps of gloo's threads."""


def in_process(setup: Setup) -> bool:
    """The rank is a process without a GPU, run by DeepSpeed with its states in place: what is below holds."""
    return (
        setup.cluster.device.kind == "cpu" and setup.profile.memory.gathers == "deepspeed" and setup.offload == "none"
    )


class HighWater(NamedTuple):
    """Bytes that the process has beside weights and optimizer states once it has done a few steps."""

    gradients: float
    activations: float
    logits: float
    buffers: float


def high_water(setup: Setup, states: States, *, activations: float, logits: float) -> HighWater:
    """The process of a rank of DeepSpeed.

    Args:
        setup: the set-up.
        states: of the rank.
        activations: kept by layers, with the layer at work.
        logits: logits with their copies and gradient.
    """
    zero, own = setup.zero_stage, PROCESS_BYTES[setup.zero_stage]
    gradients = setup.states.grad * states.trainable
    added = gradients if setup.grad_accum > 1 and zero < 2 else 0.0
    kept = HOLES * activations
    if zero == 0:
        # Gradients, and their flat copy for the all-reduce, come while activations go.
        more = (2.0 if setup.shards > 1 else 1.0) * gradients - added - kept - logits
        return HighWater(HOLES * added + max(more, 0.0), kept, logits, own)
    divided = gradients / setup.shards
    if zero == 3:
        # stage3.py: a second copy of the shards, a flat partition of gradients; weights gathered and flattened.
        whole = setup.states.weight * setup.shape.num_params / setup.tp
        return HighWater(3 * divided, kept, logits, 2 * whole + own)
    # stage_1_and_2.py: two buckets, the partition's gradients one by one and flat, all weights gathered.
    flat = 2 * divided if divided < MAPPED_ALONE else 0.0
    room = max(0.0, 1 - activations / (2 * flat)) if flat else 0.0
    buckets = 2 * setup.states.grad * min(setup.buckets.reduce, states.trainable)
    return HighWater(HOLES * (added + room * flat), kept, logits, buckets + gradients + own)
