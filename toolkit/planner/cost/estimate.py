"""Seconds of one optimizer step by cause."""

from toolkit.planner.cost.compute import Seconds, Slice
from toolkit.planner.cost.cpu_engine import agreed_seconds
from toolkit.planner.cost.data_parallel import exposed_seconds, traffic
from toolkit.planner.cost.layer import Layer, head_of, layer_of
from toolkit.planner.cost.offload import HostSeconds, host_seconds, optimizer_seconds
from toolkit.planner.cost.owned import owned
from toolkit.planner.cost.pipeline import bubble, crossings
from toolkit.planner.cost.rates import Rates, rates_of
from toolkit.planner.estimates import TimeEstimate
from toolkit.planner.memory.activations import element_factor, layer_bytes
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
        setup.chunked_loss,
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
    agreed = agreed_seconds(rates, setup, forward=forward) if rates.on_cpu else 0.0
    offloaded = setup.offload != "none"
    host = host_seconds(rates, setup, own) if offloaded else HostSeconds(0.0, optimizer_seconds(rates, setup, own))
    return TimeEstimate(
        spread=setup.profile.time.spread,
        compute_seconds=turns * (layer.forward + layer.backward) + heads * loss,
        recompute_seconds=turns * layer.again,
        tp_seconds=turns * layer.tp,
        cp_seconds=turns * layer.cp,
        pp_seconds=crossings(rates, setup).seconds if pp > 1 else 0.0,
        bubble_seconds=bubble(setup, layer=layer.total, head=loss).seconds if pp > 1 else 0.0,
        dp_seconds=exposed_seconds(rates, sent),
        optimizer_seconds=host.optimizer,
        offload_seconds=host.transfers + turns * _kept_on_host(rates, setup, layer),
        overhead_seconds=turns * layer.waits + rates.law.step_seconds + agreed,
    )


def passes(setup: Setup, layer: Layer) -> tuple[float, float]:
    """Seconds of a stage's forward and of its backward pass of one micro-batch, launches included.

    Twice the arithmetic, and the recomputation, are backward: fixed parts of the whole, so that where the host's
    launches decide no machine is slower for a faster device.
    """
    busy = setup.shape.num_layers / setup.pp * (layer.forward + layer.backward + layer.again + layer.waits)
    again = setup.recomputed_layers if setup.checkpointing == "full" else 0.0
    part = (2 + again) / (3 + again)
    return (1 - part) * busy, part * busy


def _kept_on_host(rates: Rates, setup: Setup, layer: Layer) -> float:
    """Seconds per layer that activations travel to host memory longer than the forward pass takes, and back longer
    than the backward pass."""
    if not setup.offloaded_activations:
        return 0.0
    if setup.offload_activations == "cpu":
        # torch's save_on_cpu copies on the stream that computes: nothing hides behind it.
        moved = 2.0 * setup.shape.hidden * setup.tokens * element_factor(setup) * setup.recomputed_layers
        return moved / rates.to_host + moved / rates.from_host
    num_bytes = setup.offloaded_activations * layer_bytes(setup)
    down, up = num_bytes / rates.to_host, num_bytes / rates.from_host
    if rates.on_cpu:
        return down + up
    return max(down - layer.forward, 0.0) + max(up - layer.backward - layer.again, 0.0)
