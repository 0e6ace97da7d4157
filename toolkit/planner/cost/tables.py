"""Measured rates between the sizes and shapes that were measured."""

import itertools
import math
from collections.abc import Iterable

from toolkit.specs.measurements import AttentionRate, MatmulRate, SizeRate


def by_size(points: tuple[SizeRate, ...], num_bytes: float) -> float:
    """Bytes/s on a tensor of that size: on a line through logarithms, beyond the ends as at the ends."""
    known = sorted((point.num_bytes, point.bytes_per_second) for point in points)
    if num_bytes <= known[0][0]:
        return known[0][1]
    for (small, first), (large, last) in itertools.pairwise(known):
        if num_bytes < large:
            return first * math.pow(last / first, math.log(num_bytes / small) / math.log(large / small))
    return known[-1][1]


def matmul_rate(points: tuple[MatmulRate, ...], shape: tuple[float, float, float], *, precision: str) -> float | None:
    """FLOP/s of a product (m x k) by (k x n); None where its precision was not measured."""
    m, n, k = shape
    alike = (((point.m, point.n, point.k), point.flops_per_second) for point in points if point.precision == precision)
    return _weighted(alike, (m, n, k))


def attention_rate(points: tuple[AttentionRate, ...], seq_len: float, head_dim: float) -> tuple[float, float]:
    """(forward, backward) FLOP/s of attention."""
    sizes = seq_len, head_dim
    forward = _weighted((((one.seq_len, one.head_dim), one.forward) for one in points), sizes)
    backward = _weighted((((one.seq_len, one.head_dim), one.backward) for one in points), sizes)
    if forward is None or backward is None:
        raise ValueError("no attention was measured")
    return forward, backward


def _weighted(points: Iterable[tuple[tuple[float, ...], float]], sizes: tuple[float, ...]) -> float | None:
    """Logarithms of rates, weighted by the inverse fourth power of the distance in log sizes; None without points."""
    total = weights = 0.0
    for known, rate in points:
        distance = sum(math.log(size / one) ** 2 for size, one in zip(sizes, known, strict=True))
        weight = 1.0 / (distance + 1e-3) ** 2
        total += weight * math.log(rate)
        weights += weight
    return math.exp(total / weights) if weights else None
