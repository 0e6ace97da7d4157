"""Who is named: by what it costs the step, after several windows, and nobody for noise."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from toolkit.training.stragglers import Changes, Finder, _medians_of_others

FORWARD, BACKWARD, STEP = 0.1, 0.2, 0.4
WINDOWS = 10
"""Of five steps: what becomes slow is to be named within fifty."""

Slowed = Callable[[int, str], float]


def windows(finder: Finder, count: int, *, ranks: int, slowed: Slowed, noise: float, seed: int = 0) -> list[Changes]:
    """Windows in which each rank's parts of a step scatter by so much of themselves."""
    draw = random.Random(seed)
    base = {"data": 0.002, "forward": FORWARD, "backward": BACKWARD, "optimizer": 0.01, "other": 0.002}
    found = []
    for _ in range(count):
        seconds = {
            section: [time * draw.uniform(1 - noise, 1 + noise) + slowed(rank, section) for rank in range(ranks)]
            for section, time in base.items()
        }
        busy = max(sum(times[rank] for times in seconds.values()) for rank in range(ranks))
        found.append(finder.hear(seconds, step_seconds=busy + 0.1))
    return found


def nobody(rank: int, section: str) -> float:
    return 0.0


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
@pytest.mark.parametrize(
    ("section", "seconds"), [("data", 0.06), ("forward", 0.08), ("backward", 0.1), ("optimizer", 0.06), ("other", 0.06)]
)
def test_a_slow_rank_is_named_with_its_section(ranks: int, section: str, seconds: float) -> None:
    finder = Finder([0] * ranks, share=0.1)
    assert not any(changes.slow for changes in windows(finder, 8, ranks=ranks, slowed=nobody, noise=0.1))
    told = windows(
        finder,
        WINDOWS,
        ranks=ranks,
        slowed=lambda rank, where: seconds if (rank, where) == (1, section) else 0.0,
        noise=0.1,
    )
    (slow,) = [slow for changes in told for slow in changes.slow]
    assert (slow.rank, slow.section) == (1, section)
    assert slow.lost == pytest.approx(seconds, rel=0.5)
    assert [bool(changes.slow) for changes in told].index(True) in (4, 5)  # five windows at least


def test_nobody_is_named_for_noise() -> None:
    for seed in range(20):
        finder = Finder([0] * 8, share=0.1)
        told = windows(finder, 60, ranks=8, slowed=nobody, noise=0.2, seed=seed)
        assert not any(changes.slow for changes in told)


def test_nobody_is_named_for_moments() -> None:
    finder = Finder([0] * 4, share=0.1)
    for rank in (0, 1, 2, 3):  # each is slow for a while, and for less than what counts
        told = windows(finder, 4, ranks=4, slowed=lambda one, where, at=rank: 0.3 if one == at else 0.0, noise=0.1)  # type: ignore[misc]
        told += windows(finder, 3, ranks=4, slowed=nobody, noise=0.1)
        assert not any(changes.slow for changes in told)


def test_it_is_named_once_and_its_end_is_told_and_it_may_be_named_again() -> None:
    finder = Finder([0] * 4, share=0.1)

    def slowed(rank: int, section: str) -> float:
        return 0.2 if (rank, section) == (3, "forward") else 0.0

    for _ in range(2):
        told = windows(finder, 20, ranks=4, slowed=slowed, noise=0.1)
        assert [slow.rank for changes in told for slow in changes.slow] == [3]
        assert not any(changes.over for changes in told)
        told = windows(finder, 8, ranks=4, slowed=nobody, noise=0.1)
        assert [rank for changes in told for rank in changes.over] == [3]


def test_both_ranks_of_a_slow_host_are_named() -> None:
    finder = Finder([0] * 4, share=0.1)
    told = windows(
        finder, 8, ranks=4, slowed=lambda rank, where: 0.2 if rank > 1 and where == "data" else 0.0, noise=0.1
    )
    assert [slow.rank for changes in told for slow in changes.slow] == [2, 3]


def test_who_is_slow_in_all_that_it_computes_is_slow_in_the_forward_pass() -> None:
    finder = Finder([0, 0], share=0.1)
    half = {"forward": FORWARD, "backward": BACKWARD}
    told = windows(finder, 8, ranks=2, slowed=lambda rank, where: rank * half.get(where, 0.0), noise=0.1)
    (slow,) = [slow for changes in told for slow in changes.slow]
    assert (slow.rank, slow.section) == (1, "forward")


SECTIONS = ("data", "forward", "backward", "optimizer", "other")


@pytest.mark.parametrize("strikes", ["everywhere", "now here, now there"])
def test_a_rank_that_is_stopped_now_and_then_is_named(strikes: str) -> None:
    finder, turns = Finder([0] * 4, share=0.1), iter(range(1000))

    def stopped(rank: int, section: str) -> float:
        if rank != 2:
            return 0.0
        if strikes == "everywhere":
            return 0.02
        return 0.08 if SECTIONS[next(turns) // len(SECTIONS) % len(SECTIONS)] == section else 0.0

    told = windows(finder, WINDOWS, ranks=4, slowed=stopped, noise=0.1)
    (slow,) = [slow for changes in told for slow in changes.slow]
    assert slow.rank == 2
    assert slow.lost == pytest.approx(0.09, abs=0.025)
    (over,) = [rank for changes in windows(finder, 8, ranks=4, slowed=nobody, noise=0.1) for rank in changes.over]
    assert over == 2


def hear(
    finder: Finder, count: int, forward: Sequence[float], backward: Sequence[float] | None = None
) -> list[Changes]:
    """Windows that are all alike."""
    rest = backward or [0.0] * len(forward)
    busy = [one + other for one, other in zip(forward, rest, strict=True)]
    step = max(busy) + (0.1 if backward else 2.2 * max(forward))
    return [finder.hear({"forward": forward, "backward": rest}, step_seconds=step) for _ in range(count)]


def test_without_a_backward_pass_that_is_told_the_forward_pass_stands_for_both() -> None:
    # On GPUs: a third slower in all, of which a tenth of the step would be the forward pass alone, is a quarter of it.
    (slow,) = [slow for changes in hear(Finder([0, 0], share=0.1), 8, [0.1, 0.133]) for slow in changes.slow]
    assert slow.rank == 1
    assert slow.lost == pytest.approx(0.1, rel=0.05)


def test_a_stage_of_one_rank_is_compared_with_itself() -> None:
    finder = Finder([0, 1], share=0.1)
    # The last stage has the head: always more to do, and no reason to name it.
    assert not any(changes.slow for changes in hear(finder, 12, [0.1, 0.15], [0.2, 0.3]))
    # All at half their speed: nobody's fault.
    assert not any(changes.slow for changes in hear(finder, 12, [0.2, 0.3], [0.4, 0.6]))
    (slow,) = [slow for changes in hear(finder, WINDOWS, [0.1, 0.3], [0.2, 0.6]) for slow in changes.slow]
    assert (slow.rank, slow.section) == (1, "forward")
    assert slow.expected == pytest.approx(0.15)


def test_ranks_of_a_stage_are_compared_with_each_other() -> None:
    finder = Finder([0, 0, 1, 1], share=0.1)
    (slow,) = [slow for changes in hear(finder, 8, [0.1, 0.1, 0.2, 0.3], [0.2, 0.2, 0.4, 0.6]) for slow in changes.slow]
    assert slow.rank == 3


def test_what_the_first_rank_writes_is_no_fault() -> None:
    finder = Finder([0] * 4, share=0.1)
    told = windows(
        finder, 20, ranks=4, slowed=lambda rank, where: 0.1 if (rank, where) == (0, "other") else 0.0, noise=0.1
    )
    assert not any(changes.slow for changes in told)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_medians_without_one(count: int) -> None:
    draw = random.Random(count)
    values = [draw.choice([1.0, 2.0, draw.random()]) for _ in range(count)]
    wanted = [statistics.median(values[:place] + values[place + 1 :] or [1.0]) for place in range(count)]
    assert _medians_of_others(values) == pytest.approx(wanted)


def test_thousands_of_ranks_take_milliseconds() -> None:
    finder = Finder([rank // 1024 for rank in range(8192)], share=0.1)
    began = time.perf_counter()
    told = windows(finder, 2, ranks=8192, slowed=nobody, noise=0.1)
    assert time.perf_counter() - began < 5.0
    assert all(not one.slow and not two.slow for one, two in pairwise(told))
