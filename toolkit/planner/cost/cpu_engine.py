"""What DeepSpeed's ZeRO adds to a step on processors: collectives as it calls them, copies, hooks.

Counted on steps of DeepSpeed 0.19.8 with 1 and 2 ranks: calls of torch.distributed, bytes by torch's dispatcher.
"""

from typing import NamedTuple

from toolkit.planner.cost.network import all_reduce_seconds, gather_seconds, ring
from toolkit.planner.cost.owned import Owned
from toolkit.planner.cost.rates import Rates
from toolkit.planner.cost.tables import by_size
from toolkit.planner.setup import Setup

STEP_OPS, STEP_LAYER_OPS = 500.0, 130.0
"""Operations per optimizer step: of the engine, and per layer (nine tensors each)."""
GATHER_LAYER_OPS = 5300.0
"""Operations per layer and micro-batch of ZeRO-3: hooks before and after 13 modules forward and backward, parameter
coordinator, partitions."""
CHECKPOINTED_OPS = 2.9
"""Operations of a layer that is computed again over those of one that is not, timed with layers too small to take time
(torch 2.13, 2.6 to 3.1): 338 over 208 are counted, and packing every tensor that is saved takes longer than they do."""
GATHERS, GATHERED = 9.0, 1.4
"""All-gathers of ZeRO-3 per layer and micro-batch, and how often the weights pass in them: most stay from the forward
to the backward pass where `max_live` allows it, as in the configurations that the toolkit writes."""


class Copied(NamedTuple):
    """Bytes per trained parameter that the engine moves in a step beside Adam and collectives: into buckets, divided,
    normed, clipped, flattened."""

    whole: float
    """For every parameter, in tensors that are there."""
    share: float
    """For those that the rank updates."""
    new_whole: float
    """For every parameter, into new flat tensors."""
    new_share: float
    """For those that the rank updates, into new flat tensors."""


COPIED = {
    ("fp32", 0): Copied(36, 0, 8, 0),
    ("fp32", 1): Copied(26, 46, 0, 20),
    ("fp32", 3): Copied(28, 52, 8, 20),
    ("bf16", 0): Copied(34, 0, 18, 0),
    ("bf16", 1): Copied(13, 36, 0, 22),
    ("bf16", 3): Copied(14, 42, 4, 22),
}
"""Stage 2 copies as stage 1."""


def layer_ops(setup: Setup) -> float:
    """Operations per layer and micro-batch beside those of the model: the engine's hooks, and its step."""
    return STEP_LAYER_OPS / setup.grad_accum + (GATHER_LAYER_OPS if setup.zero_stage == 3 else 0.0)


def collective_seconds(rates: Rates, setup: Setup, own: Owned) -> float:
    """Collectives as DeepSpeed calls them: whole buckets summed by all ranks in stages 1 and 2
    (use_multi_rank_bucket_allreduce), weights gathered in one call after the step."""
    if setup.shards == 1:
        return 0.0
    group = ring(rates, setup.shards, setup.tp)
    width = setup.carried_bytes
    gradients, stage = own.trained * width, setup.zero_stage
    if stage == 0:
        return all_reduce_seconds(rates, group, gradients)
    bucket = min(width * setup.buckets.reduce, gradients)
    if stage == 3:
        each = GATHERED * own.weight_bytes / (GATHERS * setup.shape.num_layers)
        gathers = GATHERS * setup.shape.num_layers * gather_seconds(rates, group, each)
        scatters = gradients / bucket * gather_seconds(rates, group, bucket, kind="reduce_scatter")
        return setup.grad_accum * (gathers + scatters)
    times = setup.grad_accum if stage == 2 else 1
    summed = times * gradients / bucket * all_reduce_seconds(rates, group, bucket)
    return summed + gather_seconds(rates, group, gradients)


def copy_seconds(rates: Rates, setup: Setup, own: Owned) -> float:
    """What the engine moves in a step, gradients added up over micro-batches included."""
    precision, width = ("fp32" if setup.carried_bytes == 4 else "bf16"), setup.carried_bytes
    copied = COPIED[precision, {2: 1}.get(setup.zero_stage, setup.zero_stage)]
    divided = own.trained / (setup.shards if setup.zero_stage >= 1 else 1)
    there = by_size(rates.elementwise, width * min(setup.buckets.reduce, own.trained))
    total = (copied.whole * own.trained + copied.share * divided) / there
    total += copied.new_whole * own.trained / by_size(rates.elementwise, width * own.trained)
    total += copied.new_share * divided / by_size(rates.elementwise, 4.0 * divided)
    # A sum is read, the gradient is read, the sum is written.
    total += 3 * width * own.trained * (setup.grad_accum - 1) / there
    return total + STEP_OPS * rates.op_seconds
