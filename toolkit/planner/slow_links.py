"""Networks that a step waits for: how much of it, which layouts that rules out, and what would send less."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from toolkit.planner.cost.algorithms import Links, all_reduce_by
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.cost.network import ring
from toolkit.planner.cost.owned import owned
from toolkit.planner.cost.rates import rates_of
from toolkit.planner.estimates import TimeEstimate
from toolkit.planner.judge import Judged, Limits, Timed, judge
from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.offer import Offer
from toolkit.planner.request import Fixed, Request
from toolkit.planner.setup import Setup
from toolkit.planner.zero_plus_plus import zero_plus_plus_faults
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.zero_plus_plus import ZeroPlusPlus
from toolkit.units import human_bytes, human_seconds

SLOW = 0.25
"""Part of the step from which on a network is told of, and changes are tried that send less."""
GAIN = 1.05
"""Changes that gain less are not worth a line."""
_ACCUMULATED = 4
"""Times as many micro-batches per step, tried."""
_LOCAL_STEPS = 8

_SENT_OTHERWISE: tuple[tuple[str, CommunicationConfig, str], ...] = (
    ("compression=fp16", CommunicationConfig(compression="fp16"), "gradients are rounded on the way"),
    (
        "compression=powersgd",
        CommunicationConfig(compression="powersgd"),
        "matrices of low rank in the gradients' place, with error feedback",
    ),
    (
        f"local_steps={_LOCAL_STEPS}",
        CommunicationConfig(local_steps=_LOCAL_STEPS),
        "replicas differ between the means of their weights",
    ),
)


class NetworkAdvice(NamedTuple):
    """What is to be told of a plan's network."""

    reasons: tuple[str, ...]
    offers: tuple[Offer, ...]


def network_advice(request: Request, setup: Setup, *, time: TimeEstimate, fits: Sequence[Timed] = ()) -> NetworkAdvice:
    """Nothing where the ranks are on one node or the step waits little.

    Args:
        request: the question, with the cluster that the choice takes.
        setup: the choice.
        time: what it takes.
        fits: all that fit, where they were looked for.
    """
    share, step = communication_share(time), time.step_seconds
    # A pipeline that has been chosen to send little waits as well.
    if request.cluster.num_nodes == 1 or share + time.bubble_seconds / step < SLOW:
        return NetworkAdvice((), ())
    told = [_share_words(setup, share), *_ruled_out(request, step, fits)] if share >= SLOW else []
    changes = [*_sent_otherwise(request, setup), *_hierarchical(request)]
    offers = [
        Offer(change=one.change, speedup=step / one.seconds, step_seconds=one.seconds, costs=one.costs)
        for one in changes
        if step > GAIN * one.seconds
    ]
    offers += _accumulated(setup, step)
    return NetworkAdvice(tuple(told), tuple(sorted(offers, key=lambda one: -one.speedup)))


class _Change(NamedTuple):
    """Something tried."""

    change: str
    seconds: float
    costs: str


def communication_share(time: TimeEstimate) -> float:
    """Part of the step that waits for other ranks' data."""
    return (time.dp_seconds + time.tp_seconds + time.cp_seconds + time.pp_seconds) / time.step_seconds


def _share_words(setup: Setup, share: float) -> str:
    cluster = setup.cluster
    speed = f"{human_bytes(cluster.inter_node_bandwidth)}/s and {cluster.inter_node_latency * 1e3:.3g} ms per message"
    told = f"Network: {share:.0%} of the step is communication, between {cluster.num_nodes} nodes at {speed}"
    rates = rates_of(cluster, setup.profile.time)
    group = ring(rates, setup.shards, setup.tp)
    if setup.shards == 1 or group.span.num_nodes == 1:
        return f"{told}."
    layers = stage_layers(setup)
    num_bytes = owned(setup, max(layers), layers[-1]).trained * setup.carried_bytes
    far = rates.network * group.span.each
    by = all_reduce_by(Links(rates.link, rates.link_latency, far, rates.network_latency), group.span, num_bytes)
    words = ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in by.items())
    takes = "gloo takes the ring" if rates.on_cpu else "NCCL takes ring or tree"
    return f"{told}; {human_bytes(num_bytes)} of gradients all-reduced by {words} on bare links: {takes}."


def _ruled_out(request: Request, step: float, fits: Sequence[Timed]) -> Iterator[str]:
    """The best of layouts that such links make a bad idea."""
    per_node = request.cluster.gpus_per_node
    kinds = {
        "tensor parallelism across nodes": [one for one in fits if one.judged.setup.tp > per_node],
        "ZeRO-3": [one for one in fits if one.engine == "zero" and one.judged.setup.zero_stage == 3],
    }
    words = []
    for name, alike in kinds.items():
        best = min((one.step_seconds for one in alike), default=0.0)
        if best > step * GAIN:
            words.append(f"{name} {human_seconds(best)} ({best / step:.1f}x)")
    if words:
        yield f"Such links rule out what sends more: at best {' and '.join(words)} per step."


def _sent_otherwise(request: Request, setup: Setup) -> Iterator[_Change]:
    """Gradients in fewer bytes, weights now and then: with the fastest ZeRO-0 that fits."""
    if request.workload.precision == "fp16":
        return
    whole = _restricted(request, {"zero_stage": 0, "offload": "none"})
    zero = "" if setup.zero_stage == 0 else "--zero 0 "
    for name, asked, costs in _SENT_OTHERWISE:
        # 16-bit gradients are not halved by 16 bits.
        if asked.compression == "fp16" and request.workload.weights != "fp32":
            continue
        steps = [estimate_time(one.setup._replace(communication=asked)).step_seconds for one in whole]
        if steps:
            yield _Change(f"{zero}--set communication.{name}", min(steps), costs)


def _hierarchical(request: Request) -> Iterator[_Change]:
    """ZeRO-3 whose weights are gathered inside the node for the backward pass (hpZ, 2306.10209)."""
    cluster = request.cluster
    near, usable = cluster.gpus_per_node, Limits.of(cluster).device
    asked = CommunicationConfig(hpz_partition_size=near)
    if near == 1:
        return
    steps = []
    for one in _restricted(request, {"zero_stage": 3}):
        # The second copies are 2 bytes per parameter, divided over the node.
        fits = one.peak.total + 2 * one.setup.shape.num_params / near <= usable
        if fits and not list(_against(request, one, asked)):
            steps.append(estimate_time(one.setup._replace(communication=asked)).step_seconds)
    if steps:
        change = f"--zero 3 --set communication.hpz_partition_size={near}"
        yield _Change(change, min(steps), "weights a second time in every node; nobody has timed it on GPUs here")


def _against(request: Request, one: Judged, asked: CommunicationConfig) -> Iterator[str]:
    return zero_plus_plus_faults(
        ZeroPlusPlus.of(asked),
        request.model,
        request.cluster,
        workload=request.workload,
        strategy=one.strategy,
        zero_stage=3,
    )


def _accumulated(setup: Setup, step: float) -> Iterator[Offer]:
    """More micro-batches per step, in which gradients are sent as seldom as before."""
    seconds = estimate_time(setup._replace(grad_accum=_ACCUMULATED * setup.grad_accum)).step_seconds
    if (speedup := _ACCUMULATED * step / seconds) > GAIN:
        batch = _ACCUMULATED * setup.dp * setup.micro_batch * setup.grad_accum
        costs = "a step learns from more samples, and there are fewer steps: try the learning rate anew"
        yield Offer(change=f"--global-batch {batch}", speedup=speedup, step_seconds=seconds, costs=costs)


def _restricted(request: Request, given: dict[str, object]) -> list[Judged]:
    """What fits of engine zero on replicas of one rank."""
    kept = ("micro_batch", "activation_checkpointing", "checkpointing_every", "offload_activations")
    pins = {name: getattr(request.fixed, name) for name in kept}
    fixed = Fixed.model_validate({**pins, "engine": "zero", "tp": 1, "sp": 1, **given})
    return judge(request._replace(fixed=fixed)).fits
