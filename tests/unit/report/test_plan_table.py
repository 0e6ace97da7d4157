"""The plan on a console: every number is there and nothing is cut."""

import re

import pytest
from rich.console import Console

from toolkit.emitters.scenarios import SCENARIOS, Scenario
from toolkit.planner.api import estimate
from toolkit.planner.plan import Plan
from toolkit.report.plan_memory import probability
from toolkit.report.plan_table import batch_arithmetic, judged_words, plan_report
from toolkit.report.readings import readings
from toolkit.report.tables import BAR_WIDTH
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
        assert len(text.splitlines()) <= 90


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


def test_a_pipeline_tells_how_its_layers_are_divided(long_pipeline: Plan) -> None:
    made = next(scenario for scenario in SCENARIOS if scenario.file.startswith("pipeline")).plan()
    flat = " ".join(render(made, 100).split())
    assert re.search(r"stages 20, 20 layers; the slowest [\d.]+ ms per micro-batch, the mean [\d.]+ ms batch", flat)
    given = estimate("llama-3.1-8b", "8xA100-80GB", work={"seq_len": 4096, "global_batch": 64}, strategy={"pp": 4})
    flat = " ".join(render(given, 100).split())
    assert re.search(r"stages 8, 9, 9, 6 layers; .* ms; evenly divided the slowest [\d.]+ ms batch", flat)
    assert "stages 7, 14 x 8, 7 layers; the slowest" in " ".join(render(long_pipeline, 100).split())


def test_bars_are_parts_of_the_capacity() -> None:
    made = SCENARIOS[0].plan()
    full = made.model_copy(update={"memory": made.memory.model_copy(update={"weights_bytes": 10**15})})
    assert "█" * BAR_WIDTH in render(full, 100)
    assert "█" * (BAR_WIDTH + 1) not in render(full, 100)


def test_counts_are_told_by_kind(small: Plan) -> None:
    assert judged_words(small) == "10,412 strategies judged, 8,120 rejected: device memory 6,001, heads 2,119."
    assert judged_words(small) in " ".join(render(small, 80).split())
    free = small.model_copy(update={"judged": 3, "rejections": {}})
    assert judged_words(free) == "3 strategies judged, none rejected."


@pytest.mark.parametrize("width", [80, 120])
def test_three_readings_with_bands_and_risk(small: Plan, width: int) -> None:
    flat = " ".join(render(small, width).split())
    found = readings(small)
    for name, reading in (("allocated", found.allocated), ("reserved", found.reserved), ("device total", found.total)):
        row = f"{name} {human_bytes(reading.predicted)} {human_bytes(reading.low)} to {human_bytes(reading.high)}"
        assert row in flat
    assert f"P(out of memory) {found.oom_probability:.1%}" in flat
    assert f"MFU {found.mfu:.1%} of 312 TFLOP/s in bf16" in flat
    assert f"cost ${found.cost_per_billion_tokens:,.2f} per billion tokens, at $2.00 per GPU-hour" in flat
    assert "tensor parallel" not in flat  # causes of no time have no row


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_pipeline_shows_its_ends_and_its_fullest_stage(long_pipeline: Plan, width: int) -> None:
    text = render(long_pipeline, width)
    assert all(len(line) <= width for line in text.splitlines())
    rows = [line.split()[0] for line in text.split("Stage")[1].split("\n\n")[0].splitlines()[1:]]
    assert rows == ["0", "1", "2", "3", "...", "13", "14", "15"]
    middle = long_pipeline.stage_memory[8]
    moved = long_pipeline.model_copy(update={"memory": middle})
    rows = [line.split()[0] for line in render(moved, width).split("Stage")[1].split("\n\n")[0].splitlines()[1:]]
    assert rows == ["0", "1", "2", "3", "...", "8", "...", "13", "14", "15"]
    assert "does not fit" in text
    assert batch_arithmetic(long_pipeline) == "global 64 = 1 replica x 1 micro x 64 accumulation"
    # The first stage has a layer less, as it has the embedding; the second keeps nearly as many micro-batches.
    assert "stage 1 of 16" in text


@pytest.mark.parametrize(
    ("part", "words"), [(0.0, "below 0.1%"), (0.0009, "below 0.1%"), (0.004, "0.4%"), (0.123, "12%"), (1.0, "100%")]
)
def test_probabilities(part: float, words: str) -> None:
    assert probability(part) == words


def test_the_front_is_thinned_to_its_ends_and_the_choice(small: Plan) -> None:
    front = []
    for number in range(12):
        time = small.time.model_copy(update={"compute_seconds": 10.0 + number})
        strategy = small.strategy.model_copy(update={"micro_batch": number + 1})
        front.append(small.pareto[0].model_copy(update={"time": time, "strategy": strategy}))
    many = small.model_copy(update={"pareto": tuple(front), "strategy": front[1].strategy})
    shown = render(many, 100).split("Pareto front of each engine")[1].split("\n\n")[0]
    assert [number for number in range(1, 13) if f"micro-batch {number} " in shown] == [1, 2, 4, 7, 9, 12]


def test_knobs_stand_beside_their_reasons(small: Plan) -> None:
    assert "needs 128.0 GiB; helps: zero_stage 2" in " ".join(render(small, 80).split())
