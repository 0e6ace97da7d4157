"""Micro-batches in proportion to speed: each replica gets as many of a step's as let all be done at about one time.

Every rank has heard the same numbers and computes the same shares from them, so nothing more is sent.
"""

import heapq
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolkit.training.own_time import WITH_ROWS
from toolkit.training.stragglers import passes_for_forward

_WINDOWS = 3
"""In each of the last ones other shares have to be better: one slow moment changes nothing."""
_LEAST_GAIN = 0.05
"""Of a step's time: less is noise, and another order of sums for nothing."""


class Costs(NamedTuple):
    """What a replica's ranks are busy for, the slowest of them; seconds, by replica."""

    each: tuple[float, ...]
    """Of a micro-batch: its rows, its forward and backward pass."""
    fixed: tuple[float, ...]
    """Of a step, however many micro-batches it has: update, telemetry."""


class Dealt(NamedTuple):
    """Shares that are new."""

    counts: tuple[int, ...]
    """Micro-batches of each replica in a step."""
    before: tuple[int, ...]
    each: tuple[float, ...]
    """Seconds of a micro-batch, by replica."""
    gain: float
    """Part of a step's time that they are expected to save."""


class Balancer:
    """Listens to what ranks tell of the last few steps, on every rank alike.

    Args:
        replicas: of each rank, which replica it belongs to, 0 .. dp - 1.
        micro_batches: of an equal share.
    """

    def __init__(self, replicas: Sequence[int], *, micro_batches: int) -> None:
        self._replicas = replicas
        self.counts: tuple[int, ...] = (micro_batches,) * (max(replicas) + 1)
        """Of each replica, from the next step on."""
        self._windows: deque[tuple[Costs, float]] = deque(maxlen=_WINDOWS)

    def hear(self, seconds: Mapping[str, Sequence[float]], *, step_seconds: float) -> Dealt | None:
        """One window, all of whose steps had `counts`; the new shares, where others are clearly better.

        Args:
            seconds: of a step, by section and rank.
            step_seconds: of a step.
        """
        self._windows.append((self._costs(seconds), step_seconds))
        if len(self._windows) < _WINDOWS:
            return None
        usual = Costs(*(_medians([costs[part] for costs, _ in self._windows]) for part in range(2)))
        before, counts = self.counts, best_counts(usual, total=sum(self.counts))
        gains = [(slowest(costs, before) - slowest(costs, counts)) / step for costs, step in self._windows]
        if min(gains) < _LEAST_GAIN:
            return None
        self.counts = counts
        self._windows.clear()
        return Dealt(counts, before, usual.each, statistics.median(gains))

    def of_ranks(self) -> list[int]:
        """Micro-batches of each rank in a step."""
        return [self.counts[replica] for replica in self._replicas]

    def _costs(self, seconds: Mapping[str, Sequence[float]]) -> Costs:
        times = passes_for_forward(seconds)
        each, fixed = [0.0] * len(self.counts), [0.0] * len(self.counts)
        for rank, replica in enumerate(self._replicas):
            rows = sum(seconds[name][rank] * (times if name == "forward" else 1.0) for name in WITH_ROWS)
            rest = sum(of_ranks[rank] for name, of_ranks in seconds.items() if name not in WITH_ROWS)
            each[replica] = max(each[replica], rows / self.counts[replica])
            fixed[replica] = max(fixed[replica], rest)
        return Costs(tuple(each), tuple(fixed))


def best_counts(costs: Costs, *, total: int) -> tuple[int, ...]:
    """So many micro-batches for each replica, one at least, that the one which is done last is done first.

    Each goes where it is done soonest, to who has fewer so far where that is two. What a replica does takes longer with
    each, so no other order is better.

    Args:
        costs: of the replicas.
        total: micro-batches of a step; one for each replica or more.
    """
    counts = [1] * len(costs.each)
    done = [(fixed + 2 * each, 1, replica) for replica, (each, fixed) in enumerate(zip(*costs, strict=True))]
    heapq.heapify(done)
    for _ in range(total - len(counts)):
        _, _, replica = done[0]
        counts[replica] += 1
        after = costs.fixed[replica] + (counts[replica] + 1) * costs.each[replica]
        heapq.heapreplace(done, (after, counts[replica], replica))
    return tuple(counts)


def slowest(costs: Costs, counts: Sequence[int]) -> float:
    """Seconds until the last replica is done."""
    return max(fixed + count * each for each, fixed, count in zip(*costs, counts, strict=True))


def _medians(windows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(values) for values in zip(*windows, strict=True))
