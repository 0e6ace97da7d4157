"""Schedules that watch the run: `plateau` against torch's own, `relative_change` by hand and within its bounds."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.checkpoints.manifest import Progress, RateRecord
from toolkit.engines.base import Piece
from toolkit.specs.schedule import ScheduleConfig, learning_rate
from toolkit.training.rates import Change, after_change, after_loss, measures_change

PEAK = 3e-4
losses = st.lists(st.floats(0.1, 10) | st.just(math.nan) | st.sampled_from([1.0, 1.0 - 1e-5, 0.999]), max_size=60)


def saved_and_read(record: RateRecord) -> RateRecord:
    """As a checkpoint keeps it."""
    return RateRecord.model_validate(json.loads(json.dumps(record.model_dump(mode="json"))))


@settings(deadline=None)
@given(
    losses=losses,
    factor=st.floats(0.05, 0.95),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    cooldown=st.integers(0, 3),
    min_ratio=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_plateau_is_torchs(losses: list[float], **options: Any) -> None:
    schedule = ScheduleConfig(kind="plateau", warmup_steps=0, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=schedule.factor,
        patience=schedule.patience,
        threshold=schedule.threshold,
        cooldown=schedule.cooldown,
        min_lr=schedule.min_ratio * PEAK,
        eps=0,
    )
    record = RateRecord()
    for loss in losses:
        theirs.step(loss)
        record = saved_and_read(after_loss(schedule, record, loss))
        ours = learning_rate(schedule, 7, num_steps=100, peak=PEAK, factor=record.factor)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_the_warm_up_comes_first() -> None:
    schedule = ScheduleConfig(kind="plateau", warmup_steps=4, min_ratio=0.2)
    rates = [learning_rate(schedule, step, num_steps=8, peak=1.0, factor=0.5) for step in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 0.5, 0.5, 0.5, 0.5]
    assert learning_rate(schedule, 6, num_steps=8, peak=1.0, factor=0.1) == 0.2


RELATIVE = ScheduleConfig(kind="relative_change", warmup_steps=5, target=1e-3, max_adjustment=1.5, min_ratio=0.1)


@pytest.mark.parametrize(
    ("factor", "change", "expected"),
    [
        (0.5, 1e-3, 0.5),
        (0.5, 1.25e-3, 0.4),  # a quarter too far: the rate that would have been right
        (0.5, 0.8e-3, 0.625),
        (0.5, 1e-2, 0.5 / 1.5),  # no further than max_adjustment
        (0.5, 1e-5, 0.75),
        (0.5, 0.0, 0.75),
        (0.9, 1e-5, 1.0),  # never above the peak
        (0.11, 1e-1, 0.1),  # never below min_ratio
        (0.5, math.inf, 0.5),
        (0.5, math.nan, 0.5),
    ],
)
def test_relative_change_by_hand(factor: float, change: float, expected: float) -> None:
    record = after_change(RELATIVE, RateRecord(factor=factor), change)
    assert record.factor == pytest.approx(expected, rel=1e-12)
    assert saved_and_read(record) == record


@given(changes=st.lists(st.floats(0, 1e3), min_size=1, max_size=50))
def test_relative_change_keeps_its_bounds(changes: list[float]) -> None:
    record = RateRecord()
    for change in changes:
        before, record = record, after_change(RELATIVE, record, change)
        assert RELATIVE.min_ratio <= record.factor <= 1
        assert before.factor / 1.5 * (1 - 1e-12) <= record.factor <= before.factor * 1.5 * (1 + 1e-12)


@given(per_rate=st.floats(0.1, 20), peak=st.floats(1e-4, 1e-2))
def test_relative_change_arrives(per_rate: float, peak: float) -> None:
    """Where updates are proportional to the rate it ends at the target, or at the bound that is nearest."""
    record = RateRecord()
    for _ in range(40):
        record = after_change(RELATIVE, record, per_rate * peak * record.factor)
    wanted = min(max(1e-3 / (per_rate * peak), 0.1), 1.0)
    assert record.factor == pytest.approx(wanted, rel=1e-9)


def test_when_it_measures() -> None:
    schedule = RELATIVE.model_copy(update={"measure_every": 3})
    measured = [n for n in range(20) if measures_change(schedule, Progress(step=n, num_updates=n), 20)]
    assert measured == [5, 8, 11, 14, 17]
    # The first update of all has no states before it.
    at_once = schedule.model_copy(update={"warmup_steps": 0})
    assert [n for n in range(8) if measures_change(at_once, Progress(step=n, num_updates=n), 20)] == [3, 6]
    assert not measures_change(ScheduleConfig(), Progress(step=5, num_updates=5), 20)


class Pieces:
    """A rank that holds a tensor in two pieces, and a copy of what another rank speaks for."""

    def __init__(self) -> None:
        self.weights = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([100.0])]

    def states(self) -> Any:
        for number, weight in enumerate(self.weights):
            start = 2 * number
            stop = start + len(weight)
            yield Piece("w", (5,), 0, 0, 5, start=start, stop=stop, owned=number < 2), {"weight": weight}

    def gather(self, value: Any) -> list[Any]:
        return [value, (0.0, 75.0)]


def test_size_of_an_update() -> None:
    """|new - old| over |old|: 1 over the root of 9 + 16 here and 75 elsewhere; copies do not count twice."""
    engine: Any = Pieces()
    change = Change(engine)
    engine.weights[0][1] += 0.6
    engine.weights[1][1] -= 0.8
    engine.weights[2] += 50
    assert change.measured() == pytest.approx(0.1, rel=1e-6)
