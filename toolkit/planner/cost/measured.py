"""Seconds of measured collectives: between the measured sizes, and from measured groups to others of their kind.

Ranks of one machine and ranks of several are different things: a group is known by its ranks and its machines, and one
that nobody has measured is worked out of the nearest of the same kind. A collective over n ranks is so many steps, in
each of which a part of the tensor passes every link: a step is as long as in the measured group, for a part as large.
"""

import functools
import itertools
import math
from typing import NamedTuple

from toolkit.planner.cost import constants
from toolkit.planner.cost.rates import Rates
from toolkit.specs.measurements import Collective


class Span(NamedTuple):
    """Where the ranks of a group are."""

    num_ranks: int
    num_nodes: int
    """Machines."""

    @property
    def each(self) -> float:
        """Ranks per machine."""
        return self.num_ranks / self.num_nodes


class _Curve(NamedTuple):
    """Measured seconds by size of the nearest group, and how another follows from them."""

    points: tuple[tuple[int, float], ...]
    """(bytes, seconds), smallest first."""
    times: float
    """Steps over those of the measured group."""
    scale: float
    """Bytes that the measured group would have to send for each that the asked one sends."""


def measured_seconds(rates: Rates, kind: Collective, span: Span, *, num_bytes: float) -> float | None:
    """Seconds of a collective of `num_bytes` in all; None where nothing of its kind was measured."""
    curve = _curve(rates, kind, span)
    if curve is None:
        return None
    return curve.times * _between(curve.points, curve.scale * num_bytes)


@functools.lru_cache(maxsize=4096)
def _curve(rates: Rates, kind: Collective, span: Span) -> _Curve | None:
    """Of the nearest measured group whose ranks are, as the asked one's, on one machine or on several."""
    crosses = span.num_nodes > 1
    alike: dict[Span, list[tuple[int, float]]] = {}
    for one in rates.collectives:
        if one.kind == kind and (one.num_nodes > 1) == crosses:
            alike.setdefault(Span(one.num_ranks, one.num_nodes), []).append((one.num_bytes, one.seconds))
    if not alike:
        return None
    nearest = min(alike, key=lambda known: _distance(known, span))
    times = _steps(kind, span) / _steps(kind, nearest)
    if rates.on_cpu and crosses and kind == "all_gather" and nearest.num_ranks == 2 < span.num_ranks:
        # Of a larger ring one neighbour sends and the other receives: no word waits behind data.
        times /= constants.GLOO_PAIR_GATHER
    part = 1.0 if kind in ("broadcast", "p2p") else nearest.num_ranks / span.num_ranks
    # Groups that share a machine's network at once: each has so much less of it.
    shared = nearest.each / span.each if crosses else 1.0
    return _Curve(tuple(sorted(alike[nearest])), times, part * shared)


def _distance(known: Span, asked: Span) -> float:
    """Nearest are those of as many ranks per machine."""
    return 2 * abs(math.log(known.each / asked.each)) + abs(math.log(known.num_ranks / asked.num_ranks))


def _steps(kind: Collective, span: Span) -> float:
    """Rings go around once or twice, which is the same for the ratio of two; a broadcast doubles the ranks it has."""
    match kind:
        case "p2p":
            return 1.0
        case "broadcast":
            return math.log2(span.num_ranks)
        case _:
            return span.num_ranks - 1.0


def _between(points: tuple[tuple[int, float], ...], num_bytes: float) -> float:
    """On a line through logarithms; below the smallest as the smallest. Beyond the largest each byte takes as long as
    it does between the two: the rate of the largest alone would count its latency again and again."""
    if num_bytes <= points[0][0]:
        return points[0][1]
    for (small, first), (large, last) in itertools.pairwise(points):
        if num_bytes <= large:
            return first * math.pow(last / first, math.log(num_bytes / small) / math.log(large / small))
    (small, first), (large, last) = points[0], points[-1]
    if last <= first:
        return last * num_bytes / large
    return last + (num_bytes - large) * (last - first) / (large - small)
