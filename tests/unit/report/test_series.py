"""Columns of a run, what follows from them, and how few values say the same."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.planner.plan import Plan
from toolkit.report.readings import readings
from toolkit.report.record import read_records
from toolkit.report.results import measured
from toolkit.report.series import columns, last_of_each, thinned
from unit.report.conftest import PHASES, MakeRun, step_lines

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(VALUES, st.integers(1, 20))
def test_nothing_that_stands_out_is_lost(values: list[float | None], most: int) -> None:
    thin = thinned(values, most)
    assert len(thin.mean) == len(thin.low) == len(thin.high) == len(last_of_each(values, most)) <= most
    there = [value for value in values if value is not None]
    if there:
        assert min(value for value in thin.low if value is not None) == min(there)
        assert max(value for value in thin.high if value is not None) == max(there)
    else:
        assert set(thin.mean) == {None}


def test_few_values_stay_as_they_are() -> None:
    values = [1.0, None, 3.0]
    assert thinned(values, 3) == (values, values, values)
    assert last_of_each([1.0, 2.0, 3.0, 4.0, 5.0], 2) == [3.0, 5.0]


def test_mfu_is_the_plans_where_the_clock_is(make_run: MakeRun, tiny: Plan) -> None:
    seconds = tiny.time.step_seconds
    full, half = tiny.tokens_per_step, tiny.tokens_per_step // 2
    steps = step_lines(2, step_seconds=seconds, tokens=lambda number: full if number == 1 else half)
    (record,) = read_records([make_run("run", steps=steps)])
    planned = readings(tiny).mfu
    assert columns(record)["mfu"] == pytest.approx([planned, planned / 2])


def test_parts_of_a_step_sum_to_it(make_run: MakeRun) -> None:
    (record,) = read_records([make_run("run", steps=step_lines(3, step_seconds=0.5))])
    found = columns(record)
    assert found["other_seconds"] == pytest.approx([0.5 - sum(PHASES.values())] * 3)
    assert found["time"] == pytest.approx([0.5, 1.0, 1.5])
    assert found["seen"] == [64, 128, 192]


def test_what_was_not_measured_has_no_column(make_run: MakeRun) -> None:
    """A run of an earlier release has no parts, a run without any number nothing but its steps."""
    earlier = [{name: value for name, value in step.items() if name not in PHASES} for step in step_lines(2)]
    folders = [make_run("earlier", steps=earlier), make_run("bare", steps=[{"step": 1}]), make_run("planned")]
    one, bare, planned = (columns(record) for record in read_records(folders))
    assert not {"other_seconds", *PHASES, "relative_change"} & set(one)
    assert set(bare) == set(planned) == {"step", "time", "seen"}


def test_the_first_steps_are_not_typical(make_run: MakeRun, tmp_path: Path) -> None:
    steps = step_lines(9, step_seconds=lambda number: 9.0 if number <= 3 else 1.0)
    (record,) = read_records([make_run("run", steps=steps)])
    assert measured(record).typical["step_seconds"] == 1.0
