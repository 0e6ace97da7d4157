"""The loop: how long, at which rates, and what ends it early."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolkit.engines.base import Batch, StepResult
from toolkit.errors import EngineError
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import OptimizerConfig, Recipe, ScheduleConfig
from toolkit.specs.workload import Workload
from toolkit.training.loop import num_steps, train
from toolkit.training.telemetry import Telemetry


class NoBatches:
    """Data of 10 steps an epoch."""

    steps_per_epoch = 10

    def step(self, index: int) -> Sequence[Batch]:
        return []


def step(loss: float = 2.0, *, skipped: bool = False) -> StepResult:
    return StepResult(loss=loss, grad_norm=1.0, tokens=100, supervised_tokens=50, loss_scale=1.0, skipped=skipped)


def recipe(**changes: Any) -> Recipe:
    return Recipe(
        model="m",
        workload=Workload(seq_len=8, global_batch=8),
        optimizer=OptimizerConfig(learning_rate=1.0),
        schedule=ScheduleConfig(kind="linear", warmup_steps=2),
        **changes,
    )


@pytest.mark.parametrize(
    ("length", "expected"),
    [({}, 10), ({"epochs": 2.0}, 20), ({"epochs": 0.25}, 3), ({"epochs": 0.01}, 1), ({"max_steps": 7}, 7)],
)
def test_length(length: dict[str, float], expected: int) -> None:
    assert num_steps(recipe(**length), NoBatches()) == expected


def test_a_skipped_step_does_not_use_up_the_schedule(folder: RunFolder, engine: Callable[..., Any]) -> None:
    scripted = engine([step(skipped=True), step(skipped=True), step(), step(), step(), step()])
    with Telemetry(folder, scripted, num_steps=6) as telemetry:
        train(scripted, NoBatches(), recipe=recipe(), steps=6, telemetry=telemetry)
    assert scripted.learning_rates == [0.5, 0.5, 0.5, 1.0, 1.0, 0.75]
    assert [record["lr"] for record in telemetry.records] == scripted.learning_rates
    assert [record["epoch"] for record in telemetry.records] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(folder: RunFolder, engine: Callable[..., Any], loss: float) -> None:
    scripted = engine([step(), step(loss), step()])
    with (
        Telemetry(folder, scripted, num_steps=3) as telemetry,
        pytest.raises(EngineError, match=rf"the loss is {loss} at step 2 of 3; lower learning_rate \(now 1.0e\+00\)"),
    ):
        train(scripted, NoBatches(), recipe=recipe(), steps=3, telemetry=telemetry)
    assert len(folder.telemetry.read_text().splitlines()) == 2
