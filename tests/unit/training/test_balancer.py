"""Shares in proportion to speed: the best there are, changed only where it pays, and never back and forth."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.training.balancer import Balancer, Costs, Dealt, best_counts, slowest

times = st.floats(1e-4, 10.0)


@given(replicas=st.lists(st.tuples(times, st.floats(0.0, 1.0)), min_size=1, max_size=4), spare=st.integers(0, 6))
def test_no_other_shares_are_done_sooner(replicas: list[tuple[float, float]], spare: int) -> None:
    costs = Costs(*map(tuple, zip(*replicas, strict=True)))
    total = len(replicas) + spare
    counts = best_counts(costs, total=total)
    assert sum(counts) == total
    assert min(counts) >= 1
    others = (each for each in itertools.product(range(1, spare + 2), repeat=len(replicas)) if sum(each) == total)
    assert slowest(costs, counts) <= min(slowest(costs, each) for each in others) * (1 + 1e-12)


@given(st.integers(1, 12), st.integers(1, 12), times)
def test_equals_have_equal_shares(dp: int, grad_accum: int, each: float) -> None:
    assert best_counts(Costs((each,) * dp, (0.0,) * dp), total=dp * grad_accum) == (grad_accum,) * dp


def test_of_two_shares_that_take_as_long_the_smaller_change_is_made() -> None:
    assert best_counts(Costs((1.0, 2.0), (0.0, 0.0)), total=8) == (5, 3)  # 6 + 2 takes 6 s too


def hear(
    balancer: Balancer, each: Sequence[float], count: int, *, noise: float = 0.0, seed: int = 0, wait: float = 0.1
) -> list[Dealt]:
    """Windows in which a rank takes so long for a micro-batch; a quarter of it forward, and 10 ms for the rest."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        busy = [
            one * counted * draw.uniform(1 - noise, 1 + noise)
            for one, counted in zip(each, balancer.of_ranks(), strict=True)
        ]
        seconds = {
            "data": [0.0] * len(busy),
            "forward": [one / 4 for one in busy],
            "backward": [3 * one / 4 for one in busy],
            "passes": [0.0] * len(busy),
            "optimizer": [0.006] * len(busy),
            "other": [0.004] * len(busy),
        }
        dealt = balancer.hear(seconds, step_seconds=max(busy) + 0.01 + wait)
        found += [] if dealt is None else [dealt]
    return found


def test_shares_follow_speed_after_three_windows_and_stay() -> None:
    balancer = Balancer([0, 1], micro_batches=4)
    assert hear(balancer, [0.1, 0.1], 10) == []
    (dealt,) = hear(balancer, [0.1, 0.3], 3)
    assert (dealt.before, dealt.counts) == ((4, 4), (6, 2))
    assert dealt.each == pytest.approx((0.1, 0.3))
    # The slower one took 1.2 s of 1.31; both take 0.6 now. Two of three windows are of the time when it is.
    assert dealt.gain == pytest.approx(0.6 / 1.31)
    assert hear(balancer, [0.1, 0.3], 20, noise=0.05) == []
    (back,) = hear(balancer, [0.1, 0.1], 5)
    assert back.counts == (4, 4)


def test_one_slow_moment_changes_nothing() -> None:
    balancer = Balancer([0, 1], micro_batches=8)
    for _ in range(5):
        assert hear(balancer, [0.1, 0.4], 2) == []
        assert hear(balancer, [0.1, 0.1], 1) == []


def test_healthy_ranks_keep_equal_shares() -> None:
    for seed in range(20):
        balancer = Balancer(list(range(8)), micro_batches=4)
        assert hear(balancer, [0.1] * 8, 60, noise=0.1, seed=seed) == []


def test_what_is_hardly_faster_is_left_alone() -> None:
    """A tenth slower: 15 + 17 micro-batches instead of 16 + 16 would save 3 % of a step; a fifth slower, 9 %."""
    assert hear(Balancer([0, 1], micro_batches=16), [0.1, 0.11], 9) == []
    assert [one.counts for one in hear(Balancer([0, 1], micro_batches=16), [0.1, 0.125], 9)] == [(18, 14)]


def test_ranks_of_a_replica_are_one() -> None:
    """Two tensor-parallel ranks each; the slowest of all four decides for the replica it is in."""
    balancer = Balancer([0, 0, 1, 1], micro_batches=4)
    hear(balancer, [0.1, 0.1, 0.1, 0.3], 3)
    assert balancer.of_ranks() == [6, 6, 2, 2]


def test_without_a_backward_pass_that_is_told_the_forward_pass_stands_for_both() -> None:
    """As on GPUs: 0.1 s slower in the forward pass is 0.3 s of the step."""
    balancer = Balancer([0, 1], micro_batches=2)
    seconds = {"data": [0.0, 0.0], "forward": [0.1, 0.3], "backward": [0.0] * 2, "passes": [0.0] * 2}
    (dealt,) = [one for _ in range(3) if (one := balancer.hear(seconds, step_seconds=1.0)) is not None]
    assert dealt.counts == (3, 1)
    assert dealt.gain == pytest.approx(0.45)
