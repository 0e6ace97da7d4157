"""Does it fit: missed and false out-of-memory predictions at the memory that a plan may use."""

import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

from toolkit.planner.memory import HEADROOM
from toolkit.planner.setup import Setup
from toolkit.planner.validation.report import Bounds, NoisyNegatives, OomScore
from toolkit.planner.validation.setups import Case

LONGEST = 1 << 23
"""Tokens; the search for the longest sequence ends here."""
SEQ_STEP = 128
"""Sequence lengths are tried in multiples of this."""

Predict = Callable[[Setup], float | None]
"""Bytes that a set-up takes on its fullest device, all readings included; None where there is no prediction."""


class Evidence(NamedTuple):
    """Everything that the out-of-memory score is made of."""

    clean: list[Case]
    """Runs that ran out of memory."""
    noisy: list[Case]
    """Runs that crashed or ran out of memory."""
    bounds: list[Case]
    """Runs whose sequence is the longest that fits."""
    ran: list[tuple[Case, float]]
    """Runs that ran, with their measured peak in bytes."""


def limit(setup: Setup) -> float:
    """Bytes of a device that a run may take; the planner keeps the same headroom."""
    return (1 - HEADROOM) * setup.cluster.device.memory_bytes


def score_oom(evidence: Evidence, predict: Predict, *, with_bounds: bool = True) -> OomScore:
    """Missed, false and the rest, wherever `predict` has a prediction."""
    fits = [case for case, peak in evidence.ran if peak <= limit(case.setup)]
    every = _refused([case for case, _ in evidence.ran], predict)
    missed = _refused(evidence.clean, predict)
    false = _refused(fits, predict)
    noisy = _refused(evidence.noisy, predict)
    return OomScore(
        rows=len(missed),
        missed=1.0 - statistics.fmean(missed) if missed else None,
        ran=len(false),
        false=statistics.fmean(false) if false else None,
        false_by_framework=_false_by_framework(fits, predict),
        false_of_all_that_ran=statistics.fmean(every) if every else None,
        beyond_limit=len(evidence.ran) - len(fits),
        noisy=NoisyNegatives(rows=len(noisy), flagged=statistics.fmean(noisy) if noisy else None),
        bounds=_bounds(evidence.bounds, predict) if with_bounds else Bounds(),
    )


def longest_sequence(setup: Setup, predict: Predict) -> int:
    """Longest sequence in tokens whose predicted bytes fit in the whole device; 0 where not even the shortest does."""
    low, high = 0, LONGEST // SEQ_STEP
    capacity = setup.cluster.device.memory_bytes
    while low < high:
        middle = (low + high + 1) // 2
        needed = predict(setup._replace(seq_len=middle * SEQ_STEP))
        if needed is not None and needed <= capacity:
            low = middle
        else:
            high = middle - 1
    return low * SEQ_STEP


def _refused(cases: Iterable[Case], predict: Predict) -> list[bool]:
    """For every case with a prediction: is it beyond the limit?"""
    pairs = [(predict(case.setup), limit(case.setup)) for case in cases]
    return [needed > most for needed, most in pairs if needed is not None]


def _false_by_framework(fits: list[Case], predict: Predict) -> dict[str, float]:
    names = sorted({case.setup.profile.name for case in fits})
    refused = {name: _refused([case for case in fits if case.setup.profile.name == name], predict) for name in names}
    return {name: statistics.fmean(verdicts) for name, verdicts in refused.items() if verdicts}


def _bounds(cases: list[Case], predict: Predict) -> Bounds:
    ratios = [longest_sequence(case.setup, predict) / case.setup.seq_len for case in cases]
    return Bounds(rows=len(ratios), median_ratio=statistics.median(ratios) if ratios else None)
