"""Thresholds that follow the norms of a run, against their papers' formulas and numpy."""

import math
import statistics

import numpy
import pytest

from toolkit.engines.ds.thresholds import Percentile, Threshold, ZClip, threshold_of
from toolkit.specs.clipping import ClippingConfig

NORMS = [1.0, 1.2, 0.9, 1.1, 1.05, 4.0, 1.0, 0.95, 9.0, 1.0, 1.3]


def test_zclip_brings_a_spike_down_to_the_reciprocal_of_its_score() -> None:
    threshold = ZClip(2.0, decay=0.9, warmup_steps=5)
    assert [threshold.factor(norm) for norm in NORMS[:5]] == [1.0] * 5
    mean, deviation = statistics.fmean(NORMS[:5]), statistics.pstdev(NORMS[:5])
    score = (4.0 - mean) / deviation
    clipped = mean + 2.0**2 / score * deviation
    assert 4.0 * threshold.factor(4.0) == pytest.approx(clipped)
    # The clipped norm entered the averages: the next step is judged by them.
    mean, variance = 0.9 * mean + 0.1 * clipped, 0.9 * deviation**2 + 0.1 * (clipped - mean) ** 2
    assert threshold.counters()["mean"] == pytest.approx(mean)
    assert threshold.counters()["variance"] == pytest.approx(variance)


def test_zclip_leaves_a_run_alone_whose_norm_never_moves() -> None:
    threshold = ZClip(2.0, decay=0.9, warmup_steps=2)
    assert [threshold.factor(1.0) for _ in range(9)] == [1.0] * 9


def test_percentile_is_numpys() -> None:
    threshold = Percentile(35, window=4)
    for number, norm in enumerate(NORMS, start=1):
        expected = float(numpy.percentile(NORMS[max(0, number - 4) : number], 35))
        assert norm * threshold.factor(norm) == pytest.approx(min(norm, expected))


ZCLIP, PERCENTILE = ClippingConfig(kind="zclip", warmup_steps=3), ClippingConfig(kind="percentile", window=12)


def made(config: ClippingConfig) -> Threshold:
    threshold = threshold_of(config)
    assert threshold is not None
    return threshold


@pytest.mark.parametrize("config", [ZCLIP, PERCENTILE], ids=lambda config: config.kind)
def test_goes_on_where_another_stopped(config: ClippingConfig) -> None:
    whole, first, second = made(config), made(config), made(config)
    expected = [whole.factor(norm) for norm in NORMS]
    begun = [first.factor(norm) for norm in NORMS[:6]]
    second.set_counters(first.counters())
    assert begun + [second.factor(norm) for norm in NORMS[6:]] == expected
    assert all(math.isfinite(value) for value in second.counters().values())


@pytest.mark.parametrize(("before", "after"), [(ZCLIP, PERCENTILE), (PERCENTILE, ZCLIP)], ids=["zclip", "percentile"])
def test_begins_anew_after_another_kind(before: ClippingConfig, after: ClippingConfig) -> None:
    first, second, fresh = made(before), made(after), made(after)
    for norm in NORMS:
        first.factor(norm)
    second.set_counters(first.counters())
    assert second.counters() == fresh.counters()
    assert [second.factor(norm) for norm in NORMS] == [fresh.factor(norm) for norm in NORMS]


def test_goes_on_from_the_names_that_checkpoints_have() -> None:
    """More than ten norms, whose numbers are not in the order of letters."""
    threshold = made(PERCENTILE)
    threshold.set_counters({f"norm.{number}": float(number) for number in reversed(range(12))})
    assert list(threshold.counters().values()) == [float(number) for number in range(12)]
