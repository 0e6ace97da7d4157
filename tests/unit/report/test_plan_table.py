"""The plan on a console: every number is there and nothing is cut."""

import pytest
from rich.console import Console

from toolkit.emitters.scenarios import SCENARIOS, Scenario
from toolkit.planner.plan import Plan
from toolkit.report.plan_table import BAR_WIDTH, batch_arithmetic, plan_report
from toolkit.units import human_bytes, human_seconds


def render(made: Plan, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(plan_report(made))
    return capture.get()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.file)
def test_the_report_holds_everything(scenario: Scenario, width: int) -> None:
    made = scenario.plan()
    text = render(made, width)
    flat = " ".join(text.split())
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    for number in (made.memory.activations_bytes, made.memory.total_bytes):
        assert human_bytes(number) in flat
    assert human_seconds(made.time.step_seconds) in flat
    assert batch_arithmetic(made) in flat
    for reason in made.reasons:
        assert reason in flat
    for other in made.alternatives:
        assert human_bytes(other.memory.total_bytes) in flat
    if width == 100:
        assert len(text.splitlines()) <= 60


def test_rejections_keep_their_reasons() -> None:
    made = next(scenario for scenario in SCENARIOS if "70b_4x8" in scenario.file).plan()
    lines = render(made, 120).splitlines()
    assert made.rejected
    for rejection in made.rejected:
        assert any(rejection.strategy in line and rejection.reason in line for line in lines)


def test_the_batch_is_told_as_a_product() -> None:
    made = next(scenario for scenario in SCENARIOS if scenario.file.startswith("zero2_bf16")).plan()
    strategy = made.strategy
    assert batch_arithmetic(made) == (
        f"global 64 = 8 ranks x {strategy.micro_batch} micro x {strategy.grad_accum} accumulation"
    )


def test_bars_are_parts_of_the_capacity() -> None:
    made = SCENARIOS[0].plan()
    full = made.model_copy(update={"memory": made.memory.model_copy(update={"weights_bytes": 10**15})})
    assert "█" * BAR_WIDTH in render(full, 100)
    assert "█" * (BAR_WIDTH + 1) not in render(full, 100)
