"""Which rank the others wait for: by the time that each is busy, never by the time of its steps, which is everybody's.

NVRx and Megatron-LM compare sections of ranks, too; here what counts is what a rank costs the step, ranks are compared
with those that have the same work, and one slow window names nobody.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolkit.training.own_time import WITH_ROWS

_WINDOWS = 6
_SLOW_WINDOWS = 5
"""Of the last `_WINDOWS`, those in which a rank has to be slow to be named; with at most one it is so no longer."""
_LEARNED = 4
"""Windows that make what is usual for a rank that nobody else has the work of."""
_FACTOR = 1.15
"""What is slow takes this many times as long as it should, however short the step is."""
_PASSES = 3.0
"""Of the forward pass, with the backward pass, where that is not told apart: its products are twice as many."""
_ALIKE = 1.5


class Slow(NamedTuple):
    """A rank that the others wait for; seconds are means of the windows in which it was slow."""

    rank: int
    section: str
    """In which it loses the most."""
    seconds: float
    """Of a step, in that section."""
    expected: float
    """What the others take, or what it took before."""
    lost: float
    """Seconds of a step that the others wait for it, in all sections."""


class _Excess(NamedTuple):
    """Of one rank in one section of a step, or in all."""

    seconds: float
    expected: float
    lost: float
    """By the step."""
    counts: float
    """From so much lost on, it counts."""

    @property
    def times(self) -> float:
        """As long as it should take."""
        return self.seconds / self.expected if self.expected > 0 else math.inf

    @property
    def slow(self) -> bool:
        return self.lost > self.counts and self.seconds > _FACTOR * self.expected


class Changes(NamedTuple):
    """What a window has brought."""

    slow: tuple[Slow, ...]
    """Ranks named now."""
    over: tuple[int, ...]
    """Ranks that were named and are as fast as the others again."""


class Finder:
    """Listens to what ranks tell of the last few steps, window by window.

    Args:
        stages: of each rank; those of one stage have equal work.
        share: of a step's time that a slow rank costs.
    """

    def __init__(self, stages: Sequence[int], *, share: float) -> None:
        self._stages, self._share = stages, share
        self._usual: dict[str, list[list[float]]] = {}
        self._windows: list[deque[dict[str, _Excess] | None]] = [deque(maxlen=_WINDOWS) for _ in stages]
        """By rank; of those in which it was not slow nothing is kept."""
        self._named: set[int] = set()

    def hear(
        self, seconds: Mapping[str, Sequence[float]], *, step_seconds: float, shares: Sequence[float] | None = None
    ) -> Changes:
        """One window.

        Args:
            seconds: of a step, by section and rank.
            step_seconds: of a step, the same on all ranks.
            shares: micro-batches of each rank over those of an equal share; without them all have that. Ranks are
                compared by what an equal share would take them: who has less to do is not fast.
        """
        unseen = passes_for_forward(seconds)
        found: list[dict[str, _Excess]] = [{} for _ in self._stages]
        for section, taken in seconds.items():
            times = taken
            if shares is not None and section in WITH_ROWS:
                times = [time / share for time, share in zip(taken, shares, strict=True)]
            for rank, expected in enumerate(self._expected(section, times)):
                lost = (times[rank] - expected) * (unseen if section == "forward" else 1.0)
                found[rank][section] = _Excess(times[rank], expected, lost, self._share * step_seconds)
        waits = [step_seconds - sum(times[rank] for times in seconds.values()) for rank in range(len(self._stages))]
        most = _medians_of_others(waits)
        for windows, excess in zip(self._windows, found, strict=True):
            # What stops a rank strikes now this section and now that.
            windows.append(excess if _whole(excess).slow or any(one.slow for one in excess.values()) else None)
        newly = [one for rank in range(len(self._stages)) if (one := self._newly_slow(rank, most[rank]))]
        return Changes(tuple(newly), tuple(self._over()))

    def _newly_slow(self, rank: int, waited: float) -> Slow | None:
        """As its last windows have it; the others lose no more than they waited."""
        windows = [window for window in self._windows[rank] if window is not None]
        if len(windows) < _SLOW_WINDOWS or rank in self._named:
            return None
        self._named.add(rank)
        found = {section: _mean([window[section] for window in windows]) for section in windows[0]}
        worst = max(found, key=lambda section: found[section].lost)
        # Who is slow in all that it computes is so in the pass that is measured best.
        forward, backward = found.get("forward"), found.get("backward")
        if worst == "backward" and forward and backward and forward.slow and forward.times * _ALIKE > backward.times:
            worst = "forward"
        lost = max(min(_whole(found).lost, waited), 0.0)
        return Slow(rank, worst, found[worst].seconds, found[worst].expected, lost)

    def _over(self) -> list[int]:
        over = [rank for rank in self._named if sum(window is not None for window in self._windows[rank]) <= 1]
        self._named.difference_update(over)
        return sorted(over)

    def _expected(self, section: str, times: Sequence[float]) -> list[float]:
        """Of each rank: the median of the others of its stage; alone in it, what it took before, as others drift."""
        before = self._usual.setdefault(section, [])
        if len(before) < _LEARNED:
            before.append(list(times))
        usual = [statistics.median(windows) for windows in zip(*before, strict=True)]
        drifts = [time / known if known > 0 else 1.0 for time, known in zip(times, usual, strict=True)]
        drift_of_others = _medians_of_others(drifts)
        expected = [0.0] * len(times)
        for members in self._peers(section):
            if len(members) > 1:
                for rank, median in zip(members, _medians_of_others([times[rank] for rank in members]), strict=True):
                    expected[rank] = median
            else:
                (rank,) = members
                known = usual[rank] * max(drift_of_others[rank], 1.0)
                expected[rank] = times[rank] if len(before) < _LEARNED else known
        return expected

    def _peers(self, section: str) -> list[list[int]]:
        """Ranks that have the same to do."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for rank, stage in enumerate(self._stages):
            # The first rank writes telemetry, and nobody else does.
            groups.setdefault((stage, section == "other" and rank == 0), []).append(rank)
        return list(groups.values())


def _whole(excess: Mapping[str, _Excess]) -> _Excess:
    """Of all sections together; `excess` is not empty."""
    seconds, expected, lost, counts = zip(*excess.values(), strict=True)
    return _Excess(sum(seconds), sum(expected), sum(lost), counts[0])


def _mean(windows: Sequence[_Excess]) -> _Excess:
    return _Excess(*(statistics.fmean(values) for values in zip(*windows, strict=True)))


def passes_for_forward(seconds: Mapping[str, Sequence[float]]) -> float:
    """What the time of the forward pass is counted by: it stands for the backward pass too, where that is not told."""
    return 1.0 if any(any(seconds.get(name, ())) for name in ("backward", "passes")) else _PASSES


def _medians_of_others(values: Sequence[float]) -> list[float]:
    """For each value the median of all but it; 1.0 where there is no other. In one pass: there may be thousands."""
    count = len(values) - 1
    if count == 0:
        return [1.0]
    order = sorted(range(len(values)), key=values.__getitem__)
    medians = [0.0] * len(values)
    for place, index in enumerate(order):
        middle = [values[order[one + (one >= place)]] for one in ((count - 1) // 2, count // 2)]
        medians[index] = sum(middle) / 2
    return medians
