"""Learning rates: values by hand, and bounds for every schedule."""

import math
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.specs.recipe import ScheduleConfig
from toolkit.training.schedule import learning_rate, num_warmup_steps

KINDS: tuple[Literal["cosine", "linear", "constant"], ...] = ("cosine", "linear", "constant")

schedules = st.one_of(
    st.builds(ScheduleConfig, kind=st.sampled_from(KINDS), warmup_steps=st.integers(0, 50), min_ratio=st.floats(0, 1)),
    st.builds(ScheduleConfig, kind=st.sampled_from(KINDS), warmup_ratio=st.floats(0, 0.99), min_ratio=st.floats(0, 1)),
)
lengths = st.integers(1, 200)


def rates(schedule: ScheduleConfig, num_steps: int, *, peak: float = 1.0) -> list[float]:
    return [learning_rate(schedule, step, num_steps=num_steps, peak=peak) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "constant", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"kind": "linear", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ({"kind": "linear", "warmup_steps": 4, "min_ratio": 0.2}, [0.25, 0.5, 0.75, 1, 1, 0.8, 0.6, 0.4]),
        ({"kind": "linear", "warmup_ratio": 0.5}, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ({"kind": "linear", "warmup_steps": 0}, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (
            {"kind": "cosine", "warmup_steps": 4},
            [0.25, 0.5, 0.75, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2],
        ),
        ({"kind": "cosine", "warmup_steps": 100}, [n / 8 for n in range(1, 9)]),
    ],
)
def test_values(schedule: dict[str, object], expected: list[float]) -> None:
    parsed = ScheduleConfig.parse(schedule, source="test")
    assert rates(parsed, 8, peak=3e-4) == pytest.approx([3e-4 * value for value in expected])


@pytest.mark.parametrize(("num_steps", "expected"), [(1, 1), (10, 1), (100, 3), (1000, 30)])
def test_warmup_by_default_is_three_percent(num_steps: int, expected: int) -> None:
    assert num_warmup_steps(ScheduleConfig(), num_steps) == expected


@given(schedule=schedules, num_steps=lengths, peak=st.floats(1e-8, 1.0))
def test_no_rate_leaves_its_bounds(schedule: ScheduleConfig, num_steps: int, peak: float) -> None:
    warmup = num_warmup_steps(schedule, num_steps)
    assert 0 <= warmup <= num_steps
    for step, rate in enumerate(rates(schedule, num_steps, peak=peak)):
        # No step is wasted at 0, whatever the schedule.
        assert 0 < rate <= peak * (1 + 1e-12)
        assert step < warmup or rate >= peak * schedule.min_ratio * (1 - 1e-12)


@given(schedule=schedules, num_steps=lengths)
def test_rises_to_the_peak_then_falls(schedule: ScheduleConfig, num_steps: int) -> None:
    values = rates(schedule, num_steps)
    warmup = num_warmup_steps(schedule, num_steps)
    assert max(values) == pytest.approx(1.0)
    top = max(warmup - 1, 0)
    assert values[: top + 1] == sorted(values[: top + 1])
    falling = values[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(falling))
