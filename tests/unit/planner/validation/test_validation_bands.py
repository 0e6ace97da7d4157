"""The bands behind predictions: about nine of ten measured runs lie inside."""

import math

import pytest

from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.memory import estimate_memory
from toolkit.planner.validation.api import judge_runs
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.validation.split import in_fit_half


@pytest.mark.parametrize("adapters", [False, True])
def test_nine_of_ten_peaks_lie_inside_their_band(adapters: bool) -> None:
    judged = judge_runs(read_runs(CORPUS / "runs.csv")).memory
    kind = [one for one in judged if (one.case.setup.method != "full") == adapters and not in_fit_half(one.case.run)]
    inside = 0
    for one in kind:
        low, high = estimate_memory(one.case.setup, one.case.stage).band(one.predicted)
        inside += low <= one.measured <= high
        assert math.isclose(low * high, one.predicted**2)
    assert len(kind) > 20
    assert 0.85 <= inside / len(kind) <= 0.99


def test_nine_of_ten_step_times_lie_inside_their_band() -> None:
    judged = judge_runs(read_runs(CORPUS / "runs.csv")).time
    held_out = [one for one in judged if not in_fit_half(one.case.run)]
    widths = [1.645 * estimate_time(one.case.setup).spread for one in held_out]
    inside = [abs(math.log(one.measured / one.predicted)) <= width for one, width in zip(held_out, widths, strict=True)]
    assert 0.85 <= sum(inside) / len(inside) <= 0.97
