"""Learning rates: values by hand, against torch's and transformers' own, and bounds for every schedule."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs
from transformers import optimization as hf

from toolkit.errors import SpecError
from toolkit.specs.schedule import OPTIONS, ScheduleConfig, ScheduleKind, learning_rate, num_warmup_steps

KINDS: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
FALLING: tuple[ScheduleKind, ...] = (
    "cosine", "linear", "constant", "polynomial", "wsd", "inverse_sqrt", "step", "exponential",
)  # fmt: skip
STEPS, WARMUP, PEAK = 60, 6, 3e-4


def schedules(*kinds: ScheduleKind) -> st.SearchStrategy[ScheduleConfig]:
    common = {"kind": st.sampled_from(kinds), "min_ratio": st.floats(0, 1)}
    return st.one_of(
        st.builds(ScheduleConfig, warmup_steps=st.integers(0, 50), **common),
        st.builds(ScheduleConfig, warmup_ratio=st.floats(0, 0.99), **common),
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
        ({"kind": "wsd", "warmup_steps": 2, "decay_ratio": 0.5}, [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"kind": "step", "warmup_steps": 2, "every": 2, "gamma": 0.1}, [0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"kind": "step", "warmup_steps": 0, "every": 3, "min_ratio": 0.3}, [1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3]),
        ({"kind": "triangular", "min_ratio": 0.2, "cycles": 2}, [0.2, 0.6, 1, 0.6, 0.2, 0.6, 1, 0.6]),
        ({"kind": "triangular2", "min_ratio": 0.2, "cycles": 2}, [0.2, 0.6, 1, 0.6, 0.2, 0.4, 0.6, 0.4]),
        ({"kind": "cosine_restarts", "warmup_steps": 0, "cycles": 4}, [1, 0.5] * 4),
    ],
)
def test_values(schedule: dict[str, object], expected: list[float]) -> None:
    parsed = ScheduleConfig.parse(schedule, source="test")
    assert rates(parsed, 8, peak=3e-4) == pytest.approx([3e-4 * value for value in expected])


def stepped(make: Callable[[torch.optim.Optimizer], Any], num_steps: int = STEPS) -> list[float]:
    """The rates of a scheduler of a library."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(num_steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"kind": "constant"}, lambda o: hf.get_constant_schedule_with_warmup(o, WARMUP)),
        ({"kind": "linear"}, lambda o: hf.get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
        ({"kind": "cosine"}, lambda o: hf.get_cosine_schedule_with_warmup(o, WARMUP, STEPS)),
        (
            {"kind": "cosine", "min_ratio": 0.1},
            lambda o: hf.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=0.1),
        ),
        (
            {"kind": "cosine_restarts", "cycles": 3},
            lambda o: hf.get_cosine_with_hard_restarts_schedule_with_warmup(o, WARMUP, STEPS, 3),
        ),
        (
            {"kind": "polynomial", "power": 2.0, "min_ratio": 0.1},
            lambda o: hf.get_polynomial_decay_schedule_with_warmup(o, WARMUP, STEPS, lr_end=PEAK / 10, power=2.0),
        ),
        ({"kind": "inverse_sqrt"}, lambda o: hf.get_inverse_sqrt_schedule(o, WARMUP)),
        ({"kind": "inverse_sqrt", "timescale": 20}, lambda o: hf.get_inverse_sqrt_schedule(o, WARMUP, 20)),
        *(
            (
                {"kind": "wsd", "decay_ratio": 0.2, "decay": name, "min_ratio": 0.1},
                lambda o, kind=kind: hf.get_wsd_schedule(
                    o, WARMUP, 12, num_stable_steps=42, decay_type=kind, min_lr_ratio=0.1
                ),
            )
            for name, kind in (("linear", "linear"), ("cosine", "cosine"), ("sqrt", "1-sqrt"))
        ),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_as_transformers_has_it(options: dict[str, Any], make: Callable[[Any], Any]) -> None:
    """Its warm-up begins with a step at 0, ours with the one after it; from the peak on both are the same."""
    ours = rates(ScheduleConfig(warmup_steps=WARMUP, **options), STEPS, peak=PEAK)
    expected = stepped(make)
    assert ours[WARMUP:] == pytest.approx(expected[WARMUP:], rel=1e-9, abs=1e-18)
    if options["kind"] != "wsd":  # there it begins at min_ratio
        assert ours[: WARMUP - 1] == pytest.approx(expected[1:WARMUP])


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"kind": "step", "every": 7, "gamma": 0.3}, lambda o: theirs.StepLR(o, 7, 0.3)),
        ({"kind": "exponential", "every": 1, "gamma": 0.9}, lambda o: theirs.ExponentialLR(o, 0.9)),
        (
            {"kind": "triangular", "min_ratio": 0.1, "cycles": 3},
            lambda o: theirs.CyclicLR(o, PEAK / 10, PEAK, step_size_up=10, cycle_momentum=False),
        ),
        (
            {"kind": "triangular2", "min_ratio": 0.1, "cycles": 3},
            lambda o: theirs.CyclicLR(o, PEAK / 10, PEAK, step_size_up=10, mode="triangular2", cycle_momentum=False),
        ),
        ({"kind": "one_cycle"}, lambda o: theirs.OneCycleLR(o, PEAK, STEPS, cycle_momentum=False)),
        (
            {"kind": "one_cycle", "warmup_ratio": 0.1, "div_factor": 10.0, "final_div_factor": 50.0},
            lambda o: theirs.OneCycleLR(
                o, PEAK, STEPS, pct_start=0.1, div_factor=10, final_div_factor=50, cycle_momentum=False
            ),
        ),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_as_torch_has_it(options: dict[str, Any], make: Callable[[Any], Any]) -> None:
    without = {} if options["kind"] in ("one_cycle", "triangular", "triangular2") else {"warmup_steps": 0}
    assert rates(ScheduleConfig(**without, **options), STEPS, peak=PEAK) == pytest.approx(stepped(make), rel=1e-9)


@pytest.mark.parametrize("num_steps", [2, 3, 7, 25, 60, 101, 1000])
@pytest.mark.parametrize("ratio", [None, 0.0, 0.25])
def test_one_cycle_is_torchs_at_any_length(num_steps: int, ratio: float | None) -> None:
    """Also where the top lies between two steps, or before the first."""
    start = 0.3 if ratio is None else ratio
    expected = stepped(
        lambda o: theirs.OneCycleLR(o, PEAK, num_steps, pct_start=start, cycle_momentum=False), num_steps
    )
    ours = rates(ScheduleConfig(kind="one_cycle", warmup_ratio=ratio), num_steps, peak=PEAK)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12 * PEAK)


def test_the_only_step_of_a_cycle_counts() -> None:
    assert rates(ScheduleConfig(kind="one_cycle"), 1) == [1.0]


@pytest.mark.parametrize(("num_steps", "expected"), [(1, 1), (10, 1), (100, 3), (1000, 30)])
def test_warmup_by_default_is_three_percent(num_steps: int, expected: int) -> None:
    assert num_warmup_steps(ScheduleConfig(), num_steps) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "are both given"),
        ({"kind": "cosine", "gamma": 0.1}, "gamma is of kind step and exponential, kind is cosine"),
        ({"kind": "linear", "power": 2.0}, "power is of kind polynomial"),
        ({"kind": "triangular"}, "needs min_ratio"),
        ({"kind": "triangular2", "min_ratio": 0.1, "warmup_steps": 3}, "rises by itself"),
        ({"kind": "one_cycle", "min_ratio": 0.1}, "leave it out"),
        ({"kind": "cosin"}, "cosine"),
    ],
)
def test_what_does_not_fit_together(given: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        ScheduleConfig.parse(given, source="recipe.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_all_values_written_out_are_read_again(kind: ScheduleKind) -> None:
    """As recipe.yaml has them: options of other kinds too, at their defaults."""
    made = ScheduleConfig(kind=kind, min_ratio=0.1 if kind.startswith("triangular") else 0.0)
    assert ScheduleConfig.parse(made.model_dump(), source="recipe.yaml") == made
    assert set(OPTIONS) < set(ScheduleConfig.model_fields)


@given(schedule=schedules(*FALLING), num_steps=lengths, peak=st.floats(1e-8, 1.0))
def test_no_rate_leaves_its_bounds(schedule: ScheduleConfig, num_steps: int, peak: float) -> None:
    warmup = num_warmup_steps(schedule, num_steps)
    assert 0 <= warmup <= num_steps
    for step, rate in enumerate(rates(schedule, num_steps, peak=peak)):
        # No step is wasted at 0, whatever the schedule.
        assert 0 < rate <= peak * (1 + 1e-12)
        assert step < warmup or rate >= peak * schedule.min_ratio * (1 - 1e-12)


@given(schedule=schedules(*FALLING), num_steps=lengths)
def test_rises_to_the_peak_then_falls(schedule: ScheduleConfig, num_steps: int) -> None:
    values = rates(schedule, num_steps)
    warmup = num_warmup_steps(schedule, num_steps)
    assert max(values) == pytest.approx(1.0)
    top = max(warmup - 1, 0)
    assert values[: top + 1] == sorted(values[: top + 1])
    falling = values[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(falling))


@given(
    kind=st.sampled_from(["triangular", "triangular2", "one_cycle", "cosine_restarts"]),
    num_steps=lengths,
    cycles=st.integers(1, 9),
)
def test_what_rises_again_keeps_its_bounds(kind: ScheduleKind, num_steps: int, cycles: int) -> None:
    bottom = {} if kind == "one_cycle" else {"min_ratio": 0.05, "cycles": cycles}
    values = rates(ScheduleConfig(kind=kind, **bottom), num_steps)
    assert all(0 < value <= 1 + 1e-12 for value in values)
    assert kind == "one_cycle" or all(value >= 0.05 * (1 - 1e-12) or place < 6 for place, value in enumerate(values))
