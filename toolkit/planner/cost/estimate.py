"""Seconds of one optimizer step by cause."""

from toolkit.planner.cost import constants
from toolkit.planner.cost.compute import Seconds, Slice
from toolkit.planner.cost.data_parallel import exposed_seconds, traffic
from toolkit.planner.cost.layer import Layer, head_of, layer_of
from toolkit.planner.cost.network import p2p_seconds
from toolkit.planner.cost.offload import HostSeconds, host_seconds, optimizer_seconds
from toolkit.planner.cost.owned import owned
from toolkit.planner.cost.rates import Rates, rates_of
from toolkit.planner.estimates import TimeEstimate
from toolkit.planner.memory.activations import layer_bytes
from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.setup import Setup


def estimate_time(setup: Setup) -> TimeEstimate:
    """Seconds of one optimizer step, split by cause: micro-batches through the stages, gradients, the optimizer."""
    rates = rates_of(setup.cluster, setup.profile.time)
    part = slice_of(rates, setup)
    return _step(rates, setup, layer=layer_of(rates, setup, part), head=head_of(rates, setup.shape, part))


def slice_of(rates: Rates, setup: Setup) -> Slice:
    """What of a layer one rank computes."""
    return Slice(
        setup.tokens,
        setup.seq_len,
        setup.tp,
        setup.precision,
        setup.method,
        setup.lora_rank,
        setup.lora_targets,
        setup.flash_attention,
        setup.tp_sequence and rates.law.sequence_parallel,
        setup.fused_loss,
    )


def _step(rates: Rates, setup: Setup, *, layer: Layer, head: Seconds) -> TimeEstimate:
    pp, accum, num_layers = setup.pp, setup.grad_accum, setup.shape.num_layers
    stages = stage_layers(setup)
    most, last = max(stages), stages[-1]
    own = owned(setup, most, last)
    loss = head.forward + head.backward
    # Layers and heads that a stage works through on average; what the slowest does more is bubble.
    turns, heads = accum * num_layers / pp, accum / pp
    forward, backward = passes(setup, layer)
    sent = traffic(rates, setup, own, forward=forward, backward=backward)
    offloaded = setup.offload != "none"
    host = host_seconds(rates, setup, own) if offloaded else HostSeconds(0.0, optimizer_seconds(rates, setup, own))
    return TimeEstimate(
        spread=setup.profile.time.spread,
        compute_seconds=turns * (layer.forward + layer.backward) + heads * loss,
        recompute_seconds=turns * layer.again,
        tp_seconds=turns * layer.tp,
        cp_seconds=turns * layer.cp,
        pp_seconds=_stage_to_stage(rates, setup) if pp > 1 else 0.0,
        bubble_seconds=_bubble(setup, most=most, last=last, layer=layer.total, loss=loss) if pp > 1 else 0.0,
        dp_seconds=exposed_seconds(rates, sent),
        optimizer_seconds=host.optimizer,
        offload_seconds=host.transfers + turns * _kept_on_host(rates, setup, layer),
        overhead_seconds=turns * layer.waits + rates.law.step_seconds,
    )


def passes(setup: Setup, layer: Layer) -> tuple[float, float]:
    """Seconds of a stage's forward and of its backward pass of one micro-batch, launches included.

    Twice the arithmetic, and the recomputation, are backward: fixed parts of the whole, so that where the host's
    launches decide no machine is slower for a faster device.
    """
    busy = setup.shape.num_layers / setup.pp * (layer.forward + layer.backward + layer.again + layer.waits)
    part = 3 / 4 if setup.checkpointing == "full" else 2 / 3
    return (1 - part) * busy, part * busy


def _kept_on_host(rates: Rates, setup: Setup, layer: Layer) -> float:
    """Seconds per layer that activations travel to host memory longer than the forward pass takes, and back longer
    than the backward pass."""
    if not setup.offloaded_activations:
        return 0.0
    num_bytes = setup.offloaded_activations * layer_bytes(setup)
    down, up = num_bytes / rates.to_host, num_bytes / rates.from_host
    if rates.on_cpu:
        return down + up
    return max(down - layer.forward, 0.0) + max(up - layer.backward - layer.again, 0.0)


def _bubble(setup: Setup, *, most: int, last: int, layer: float, loss: float) -> float:
    """Waiting of the slowest stage and its extra work.

    It waits for the first micro-batch to come and the last to go, which is the time of all other stages, divided by the
    chunks of an interleaved schedule (2104.04473, 2.2); and it works longer than the mean stage on every micro-batch.
    """
    slowest = max(most * layer, last * layer + loss)
    whole = setup.shape.num_layers * layer + loss
    return (whole - slowest) / setup.vpp + setup.grad_accum * max(slowest - whole / setup.pp, 0.0)


def _stage_to_stage(rates: Rates, setup: Setup) -> float:
    """Every micro-batch crosses to the next stage and its gradient back, for each chunk."""
    law = rates.law
    num_bytes = (4.0 if setup.precision == "fp32" else 2.0) * setup.tokens * setup.shape.hidden
    if law.sequence_parallel and setup.tp_sequence:
        num_bytes /= setup.tp
    one = p2p_seconds(rates, num_bytes, stride=setup.world_size // setup.pp) + law.p2p_seconds
    # Longest way: twice per micro-batch, once more over all stages, and the last one only turns around.
    crossings = 2 * (setup.grad_accum * setup.vpp + setup.pp) - 3
    seen = 1.0 if rates.on_cpu else 1.0 - law.p2p_overlap
    stalled = setup.world_size >= constants.STALL_NODES * rates.per_node
    return crossings * (one * seen + (law.p2p_stall_seconds if stalled else 0.0))
