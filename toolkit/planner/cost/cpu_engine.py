"""What DeepSpeed's ZeRO adds to a step on processors: collectives as it calls them, copies, hooks.

Counted on steps of DeepSpeed 0.19.8 with 1 and 2 ranks: calls of torch.distributed, bytes by torch's dispatcher.
"""

from typing import NamedTuple

from toolkit.planner.cost.network import Ring, all_reduce_seconds, gather_seconds, ring
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
GATHERS, EDGE_GATHERS = 7.0, 2.0
"""All-gathers of ZeRO-3 per layer when all weights are gathered once, and those of embedding and head: each matrix of a
layer by itself."""

TP_SUMS, TP_EDGE_SUMS, TP_AGREED = 7.0, 2.0, 3.0
"""All-reduces of AutoTP (module_inject/layers.py): per layer and micro-batch o_proj and down_proj forward, and what
q_proj, k_proj, v_proj, gate_proj and up_proj each send back; per micro-batch the embedding and the head's input, and
three of a number per token in the loss."""
SMALL = 8.0
"""Bytes of what ranks agree on in a step."""
STAGED_SUMS = 2.5
"""All-reduces of so few bytes per step with stages: tokens, the norm, and a broadcast of the last one's loss; with
replicas of them the norm once more."""


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
        # Norms stay on every rank, and are gathered where they have been updated.
        kept = (2 * setup.shape.num_layers + 1) * gather_seconds(rates, group, width * setup.shape.hidden)
        calls = GATHERS * setup.shape.num_layers + EDGE_GATHERS
        gathers = gathered_times(setup) * calls * _gathered_behind_another(rates, group, own.weight_bytes / calls)
        scatters = gradients / bucket * gather_seconds(rates, group, bucket, kind="reduce_scatter")
        return setup.grad_accum * (gathers + scatters) + kept
    times = setup.grad_accum if stage == 2 else 1
    summed = times * gradients / bucket * all_reduce_seconds(rates, group, bucket)
    return summed + gather_seconds(rates, group, gradients)


def gathered_times(setup: Setup) -> float:
    """How often ZeRO-3 gathers the weights in a micro-batch: forward, and those again backward that were given up.

    What is used again within `stage3_max_reuse_distance` weights is kept (zero/partitioned_param_coordinator.py): the
    layers at the end, each as far from its backward pass as twice the weights behind it.
    """
    return 2 - min(1.0, setup.buckets.max_live / (2 * setup.shape.num_params))


def _gathered_behind_another(rates: Rates, group: Ring, num_bytes: float) -> float:
    """An all-gather that is asked for while another is under way, as those of ZeRO-3 are: ranks have said before that
    they are ready for it, and half of its latency is over. Else it takes its volume, half of an all-reduce's."""
    alone = min(gather_seconds(rates, group, num_bytes), all_reduce_seconds(rates, group, num_bytes) / 2)
    return alone - min(gather_seconds(rates, group, SMALL), alone) / 2


def agreed_seconds(rates: Rates, setup: Setup, *, forward: float) -> float:
    """What all ranks agree on in a step, in messages so small that latency is all that counts.

    Without stages they wait for the gradient norm; the tokens' sum travels beside the first forward pass, which takes
    `forward` seconds and other messages too where replicas or weights are divided, and the loss's beside the last
    backward pass.
    """
    if setup.world_size == 1:
        return 0.0
    one = all_reduce_seconds(rates, ring(rates, setup.world_size, 1), SMALL)
    if setup.pp > 1:
        return (STAGED_SUMS + (1 if setup.dp > 1 else 0)) * one
    divided = setup.tp > 1 or setup.sp > 1 or setup.zero_stage == 3
    return one + (0.0 if divided else max(0.0, one - forward))


def summed_seconds(rates: Rates, tp: int, *, num_bytes: float, tokens: int, num_layers: int, again: float) -> float:
    """All-reduces of AutoTP, per layer and micro-batch.

    Args:
        rates: of the machine.
        tp: ranks.
        num_bytes: of the residual stream of a micro-batch.
        tokens: of it.
        num_layers: over which those outside of the layers are divided.
        again: part of the forward pass that is run again.
    """
    group = ring(rates, tp, 1)
    per_layer = TP_SUMS + 2 * again + TP_EDGE_SUMS / num_layers
    agreed = TP_AGREED / num_layers * all_reduce_seconds(rates, group, 4.0 * tokens)
    return per_layer * all_reduce_seconds(rates, group, num_bytes) + agreed


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
