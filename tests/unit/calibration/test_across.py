"""What counts of several calls of a collective over a link."""

import pytest

from toolkit.calibration.across import middle_mean


def test_a_stall_does_not_count() -> None:
    assert middle_mean([7.0, 7.0, 250.0, 7.0]) == 7.0


def test_both_ways_in_which_a_call_may_go_count() -> None:
    # All-gathers of two ranks at 100 Mb/s, by which of them is late.
    assert middle_mean([0.88, 1.32] * 4) == pytest.approx(1.10)


@pytest.mark.parametrize("few", [[3.0], [1.0, 5.0], [1.0, 2.0, 6.0]])
def test_of_few_all_count(few: list[float]) -> None:
    assert middle_mean(few) == 3.0
