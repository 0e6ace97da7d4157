"""Times that their own table contradicts."""

import pytest

from toolkit.planner.validation.contradictions import Twins
from toolkit.planner.validation.runs import MeasuredRun

LAYOUT = {"source": "a table", "model": "llama-8b", "n_gpus": "64", "tp": "4", "pp": "2", "micro_batch": "1"}


def run(rate: str, **cells: str) -> MeasuredRun:
    return MeasuredRun({**LAYOUT, "tokens_per_s_per_gpu": rate, **cells})


def test_a_row_whose_twin_is_four_times_as_fast_is_contradicted() -> None:
    fast, slow = run("4000", zero_stage="1"), run("1000", zero_stage="0")
    twins = Twins([fast, slow])
    assert not twins.contradict(fast)
    assert twins.contradict(slow)


@pytest.mark.parametrize("other", [{"tp": "8"}, {"micro_batch": "2"}, {"model": "llama-3b"}, {"source": "another"}])
def test_other_layouts_are_no_twins(other: dict[str, str]) -> None:
    slow = run("1000", zero_stage="0")
    assert not Twins([run("4000", zero_stage="1", **other), slow]).contradict(slow)


def test_zero_stages_may_differ_by_their_traffic() -> None:
    slow = run("1500", zero_stage="0")
    assert not Twins([run("4000", zero_stage="1"), slow]).contradict(slow)


def test_a_rate_that_is_no_number_contradicts_nothing() -> None:
    slow, odd = run("1000", zero_stage="0"), run("about 4k", zero_stage="1")
    assert not Twins([slow, odd]).contradict(slow)
