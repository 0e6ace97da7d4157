"""Ranking what fits: by objective, ties by room and by fewer moving parts; the Pareto front of time and memory."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from toolkit.planner.estimates import oom_probability
from toolkit.planner.judge import Judged, Timed
from toolkit.planner.memory.estimate import spread_of
from toolkit.planner.plan import Objective
from toolkit.planner.rules import ENGINES
from toolkit.planner.strategy import EngineName

TIE = 0.02
"""Values this close are equal: the models cannot tell them apart, so the simpler strategy wins."""

TIGHT = 0.05
"""Probability of running out of memory above which a strategy is tight."""

MAX_FRONT = 8
"""Points of a Pareto front that are kept, spread evenly."""

Family = tuple[object, ...]


class Score(NamedTuple):
    """What an objective compares, smallest first."""

    value: float
    then: float
    """Decides between equal values."""


def score(one: Timed, objective: Objective) -> Score:
    """Seconds for all but `least-memory`: on one cluster the cheapest is the fastest.

    Seconds count by the chance that they come about: what runs out of memory is begun again, and a strategy that does
    in one of four runs has to be a quarter faster to be worth it.
    """
    total = float(one.judged.peak.total)
    if objective == "least-memory":
        return Score(total, one.step_seconds)
    return Score(one.step_seconds / (1.0 - min(oom_risk(one.judged), 0.99)), total)


def ranked(fits: Sequence[Timed], objective: Objective) -> Iterator[Timed]:
    """Best first; of those within `TIE` of the best left, roomy ones first, then those of fewer moving parts."""
    left = sorted(fits, key=lambda one: score(one, objective))
    start, taken = 0, [False] * len(left)
    while start < len(left):
        if taken[start]:
            start += 1
            continue
        limit = score(left[start], objective).value * (1 + TIE)
        best, best_key = start, _tie_key(left[start])
        for index in range(start + 1, len(left)):
            if score(left[index], objective).value > limit:
                break
            if not taken[index] and (key := _tie_key(left[index])) < best_key:
                best, best_key = index, key
        taken[best] = True
        yield left[best]


def _tie_key(one: Timed) -> tuple[object, ...]:
    return (is_tight(one.judged), *moving_parts(one.judged))


def is_tight(judged: Judged) -> bool:
    """True where runs of this kind run out of memory more often than `TIGHT`."""
    return oom_risk(judged) > TIGHT


def oom_risk(judged: Judged) -> float:
    """Probability that runs of this kind run out of memory, by the spread of the estimate."""
    setup = judged.setup
    capacity = setup.cluster.device.memory_bytes
    return oom_probability(judged.peak.total, capacity, spread=spread_of(setup))


def moving_parts(judged: Judged) -> tuple[int, ...]:
    """How much there is to go wrong: engine, degrees of parallelism, offload, recomputation, ZeRO, accumulation."""
    setup, engine = judged.setup, list(ENGINES).index(judged.engine)
    degrees = setup.tp * setup.pp * setup.vpp * setup.sp * setup.cp
    offload = ("none", "optimizer", "all").index(setup.offload) * (2 if setup.offload_to == "nvme" else 1)
    recompute = ("none", "selective", "full").index(setup.checkpointing)
    return engine, degrees, offload, recompute, setup.zero_stage, setup.grad_accum


def family(judged: Judged) -> Family:
    """Strategies that differ in their micro-batch only."""
    setup = judged.setup
    return (*judged.family, setup.tp, setup.pp, setup.vpp, setup.sp, setup.cp)


def best_of_families(order: Iterator[Timed], count: int) -> list[Timed]:
    """The best micro-batch of each of the `count` best families."""
    best: dict[Family, Timed] = {}
    for one in order:
        best.setdefault(family(one.judged), one)
        if len(best) == count:
            break
    return list(best.values())


def front(fits: Sequence[Timed]) -> list[Timed]:
    """Of each engine what nothing of the same engine beats in both step time and memory; fastest first."""
    engines: dict[EngineName, list[Timed]] = {}
    for one in fits:
        engines.setdefault(one.judged.engine, []).append(one)
    kept = [one for alike in engines.values() for one in _thinned(_undominated(alike))]
    return sorted(kept, key=lambda one: one.step_seconds)


def _undominated(fits: Sequence[Timed]) -> list[Timed]:
    points: list[Timed] = []
    for one in sorted(fits, key=lambda fit: (fit.step_seconds, fit.judged.peak.total)):
        if not points or one.judged.peak.total < points[-1].judged.peak.total:
            points.append(one)
    return points


def _thinned(points: list[Timed]) -> list[Timed]:
    """Both ends and what is spread evenly between them."""
    if len(points) <= MAX_FRONT:
        return points
    last = len(points) - 1
    return [points[round(index * last / (MAX_FRONT - 1))] for index in range(MAX_FRONT)]
