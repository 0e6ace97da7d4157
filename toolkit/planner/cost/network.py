"""Collectives by latency and bandwidth over the real topology: alpha-beta rings and trees.

Ranks are numbered with tensor parallelism innermost, then context or sequence parallelism, then data parallelism,
pipeline stages outermost (Megatron's order): a group's stride is the product of all sizes inside it, and says which of
its ranks share a fast domain.
"""

import functools
import math
from typing import NamedTuple

from toolkit.planner.cost import constants
from toolkit.planner.cost.measured import Span, measured_seconds
from toolkit.planner.cost.rates import Rates
from toolkit.specs.measurements import Collective


class Ring(NamedTuple):
    """A ring over the ranks of a group."""

    num_ranks: int
    num_nodes: int
    """Fast domains that the group spans."""
    byte_seconds: float
    """Seconds per byte of the whole tensor for an all-gather; an all-reduce takes it twice."""
    latency: float
    """Seconds of an all-gather without bytes."""
    tree_latency: float
    """Seconds of an all-reduce without bytes over a tree of nodes."""
    span: Span
    """The machines that it is on, by which measured groups are found."""
    gain: float
    """Bus bandwidth of an all-reduce over that of an all-gather."""
    scatter: float
    """What a reduce-scatter takes over an all-gather's volume."""
    gather: float = 1.0
    """Volumes of an all-gather that its bytes take as long as."""


@functools.lru_cache(maxsize=4096)
def ring(rates: Rates, num_ranks: int, stride: int) -> Ring:
    """The ring of a group of ranks `stride` apart: (n-1)/n of the tensor passes every link, in n-1 steps."""
    local = max(1, rates.fast_domain // stride)
    share = (num_ranks - 1) / num_ranks
    span = _span(rates, num_ranks, stride)
    # torch's gloo has no reduce-scatter: it sums all on all ranks (counted: 2 (n-1)/n of the tensor leave each).
    scatter = 2.0 if rates.on_cpu else 1.0
    if num_ranks <= local:
        latency = (num_ranks - 1) * rates.link_latency
        return Ring(num_ranks, 1, share / rates.link, latency, 2 * latency, span, 1.0, scatter)
    num_nodes = math.ceil(num_ranks / local)
    # All ranks of a ring step together, so every step takes as long as the slowest hop.
    latency = (num_ranks - 1) * rates.network_latency
    # A node's adapters are shared by as many groups as have ranks there; a group with several ranks in the node has the
    # adapters of all of them.
    if rates.on_cpu:
        # gloo has rings alone, and what its processes do with each byte comes on top of the wire's time.
        network = rates.network * local * constants.TCP_EFFICIENCY
        byte_seconds = share * (1 / network + 1 / rates.link)
        gather = constants.GLOO_PAIR_GATHER if num_ranks == 2 else 1.0
        return Ring(num_ranks, num_nodes, byte_seconds, latency, 2 * latency, span, 1.0, scatter, gather)
    decay = math.pow(min(num_nodes, constants.MEASURED_NODES), -constants.NETWORK_DECAY)
    network = rates.network * local * constants.NETWORK_EFFICIENCY * decay
    tree = 2 * ((local - 1) * rates.link_latency + math.log2(num_nodes) * rates.network_latency)
    byte_seconds = share / min(rates.link, network)
    return Ring(num_ranks, num_nodes, byte_seconds, latency, min(tree, 2 * latency), span, _gain(num_nodes), scatter)


def _span(rates: Rates, num_ranks: int, stride: int) -> Span:
    local = max(1, rates.per_node // stride)
    return Span(num_ranks, math.ceil(num_ranks / local))


def gather_seconds(rates: Rates, group: Ring, num_bytes: float, *, kind: Collective = "all_gather") -> float:
    """An all-gather of `num_bytes` in all; a reduce-scatter, or an all-to-all of as much per rank."""
    if group.num_ranks == 1:
        return 0.0
    if rates.collectives and (known := measured_seconds(rates, kind, group.span, num_bytes=num_bytes)) is not None:
        return known
    if kind == "all_gather":
        num_bytes *= group.gather
    return (group.scatter if kind == "reduce_scatter" else 1.0) * (group.latency + num_bytes * group.byte_seconds)


def all_reduce_seconds(rates: Rates, group: Ring, num_bytes: float) -> float:
    """An all-reduce: reduce-scatter and all-gather, over a tree where latency counts more."""
    if group.num_ranks == 1:
        return 0.0
    known = measured_seconds(rates, "all_reduce", group.span, num_bytes=num_bytes) if rates.collectives else None
    if known is not None:
        return known
    return min(2 * group.latency, group.tree_latency) + 2 * num_bytes * group.byte_seconds / group.gain


def _gain(num_nodes: int) -> float:
    """Bus bandwidth of an all-reduce over that of an all-gather."""
    if num_nodes == 1:
        return 1.0
    measured = min(num_nodes, constants.MEASURED_NODES)
    return constants.ALL_REDUCE_GAIN * math.sqrt(max(1.0, measured / constants.ALL_REDUCE_NODES))


def p2p_seconds(rates: Rates, num_bytes: float, *, stride: int) -> float:
    """One tensor from a rank to the one `stride` further."""
    span = Span(2, 1 if stride < rates.per_node else 2)
    if rates.collectives and (known := measured_seconds(rates, "p2p", span, num_bytes=num_bytes)) is not None:
        return known
    if stride < rates.fast_domain:
        return rates.link_latency + num_bytes / rates.link
    if rates.on_cpu:
        return rates.network_latency + num_bytes / (rates.network * constants.TCP_EFFICIENCY)
    return rates.network_latency + num_bytes / min(rates.link, rates.network)
