"""The arithmetic on paper comes to what the planner says, term by term."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from toolkit.planner.estimates import TIME_TERMS
from toolkit.planner.memory.activations import kept_bytes, layer_bytes, logits_bytes
from toolkit.planner.memory.buffers import buffer_bytes
from toolkit.planner.memory.states import states_of
from toolkit.planner.plan import Plan
from toolkit.report.explain import arithmetic, arithmetic_json, explanation
from toolkit.report.explain_lines import Section, short_seconds
from toolkit.report.readings import plan_setup

MakePlan = Callable[..., Plan]

WORK = {"seq_len": 4096, "global_batch": 64}
LAYOUTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "zero 0": ("llama-3.2-1b", "8xA100-80GB", WORK, {"zero_stage": 0}),
    "zero 0, one device": ("llama-3.2-1b", "A100-80GB", WORK, {"zero_stage": 0}),
    "zero 1": ("llama-3.1-8b", "8xA100-80GB", WORK, {"micro_batch": 4}),
    "zero 1, tensor parallel": ("llama-3.1-8b", "8xA100-80GB", WORK, {"tp": 4, "micro_batch": 2}),
    "zero 2, checkpointing": (
        "llama-3.1-8b",
        "8xA100-80GB",
        WORK,
        {"zero_stage": 2, "activation_checkpointing": "full"},
    ),
    "zero 2, optimizer offloaded": ("llama-3.1-8b", "8xA100-80GB", WORK, {"zero_stage": 2, "offload": "optimizer"}),
    "zero 3": ("llama-3.1-70b", "4x8xH100-80GB", WORK, {"zero_stage": 3}),
    "zero 3, all on disk": (
        "llama-3.1-70b",
        "8xH100-80GB",
        WORK,
        {"zero_stage": 3, "offload": "all", "offload_to": "nvme"},
    ),
    "fp32": ("smollm-135m", "8xA100-80GB", {**WORK, "seq_len": 2048, "precision": "fp32"}, {"zero_stage": 2}),
    "cpu": ("smollm-135m", "2xcpu", {"seq_len": 512, "global_batch": 8, "precision": "fp32"}, {"zero_stage": 2}),
    "lora": ("llama-3.1-8b", "8xA100-80GB", {**WORK, "method": "lora"}, {"zero_stage": 2}),
    "lora, all offloaded": (
        "llama-3.1-8b",
        "8xA100-80GB",
        {**WORK, "method": "lora"},
        {"zero_stage": 3, "offload": "all"},
    ),
    "chunked loss": ("llama-3.1-8b", "8xA100-80GB", {**WORK, "loss": "chunked"}, {"zero_stage": 2, "micro_batch": 2}),
    "chunked loss, tensor parallel, frozen head": (
        "llama-3.1-8b",
        "8xA100-80GB",
        {**WORK, "loss": "chunked", "method": "lora"},
        {"engine": "pipeline", "pp": 2, "zero_stage": 1},
    ),
    "every third layer checkpointed": (
        "llama-3.1-8b",
        "8xA100-80GB",
        WORK,
        {"engine": "pipeline", "pp": 2, "tp": 2, "zero_stage": 1, "checkpointing_every": 3},
    ),
    "checkpoints on the host": (
        "llama-3.1-8b",
        "8xA100-80GB",
        WORK,
        {"zero_stage": 2, "checkpointing_every": 2, "offload_activations": "cpu"},
    ),
    "all layers' checkpoints and the optimizer on the host": (
        "llama-3.1-8b",
        "8xA100-80GB",
        WORK,
        {"zero_stage": 2, "offload": "optimizer", "offload_activations": "cpu"},
    ),
    "qlora": ("llama-3.1-70b", "8xA100-80GB", {**WORK, "method": "qlora"}, {"activation_checkpointing": "full"}),
    "ulysses": ("llama-3.1-8b", "8xA100-80GB", {**WORK, "seq_len": 65536}, {"zero_stage": 3, "sp": 8}),
    "pipeline": ("llama-3.1-70b", "4x8xH100-80GB", WORK, {"engine": "pipeline", "pp": 8, "zero_stage": 1}),
    "selective": (
        "llama-3.1-8b",
        "8xA100-80GB",
        WORK,
        {"engine": "pipeline", "tp": 2, "pp": 2, "activation_checkpointing": "selective", "checkpointing_every": 3},
    ),
    "megatron": (
        "llama-3.1-405b",
        "16x8xH100-80GB",
        {"seq_len": 8192, "global_batch": 64},
        {"engine": "mcore", "tp": 8, "pp": 16, "activation_checkpointing": "selective"},
    ),
    "megatron, interleaved, context parallel": (
        "llama-3.1-405b",
        "64x8xH100-80GB",
        {"seq_len": 32768, "global_batch": 64},
        {"engine": "mcore", "tp": 8, "pp": 7, "vpp": 3, "cp": 2, "activation_checkpointing": "full"},
    ),
}


def plan_named(name: str, make_plan_of: MakePlan) -> Plan:
    model, machines, work, choices = LAYOUTS[name]
    if "pp" in choices and choices["pp"] == 7:
        machines = "14x8xH100-80GB"
    return make_plan_of(model, machines, work=work, **choices)


def section(sections: tuple[Section, ...], start: str) -> Section:
    return next(one for one in sections if one.title.startswith(start))


@pytest.mark.parametrize("name", LAYOUTS)
def test_memory_comes_to_the_estimate(name: str, make_plan_of: MakePlan) -> None:
    made = plan_named(name, make_plan_of)
    sections, memory = arithmetic(made), made.memory
    device = section(sections, "The device")
    # The planner cuts each of its eight terms to whole bytes.
    for line, num_bytes in (
        ("weights", memory.weights_bytes),
        ("allocated", memory.allocated_bytes),
        ("fragmentation", memory.fragmentation_bytes),
        ("reserved", memory.reserved_bytes),
        ("context", memory.context_bytes),
        ("device total", memory.total_bytes),
    ):
        assert device.value(line) == pytest.approx(num_bytes, abs=8), line
    instants = section(sections, "Instants")
    assert max(instants.lines, key=lambda line: line.value).what == memory.instant
    states = section(sections, "States")
    assert sum(line.value for line in states.lines if line.what == "weights") == pytest.approx(
        memory.weights_bytes, abs=1
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_parts_of_activations_and_buffers_add_up(name: str, make_plan_of: MakePlan) -> None:
    made = plan_named(name, make_plan_of)
    sections = arithmetic(made)
    layer = section(sections, "Activations of one layer")
    per_token = sum(line.value for line in layer.lines if line.how.endswith("per token"))
    setup, stage = plan_setup(made), made.memory.stage
    assert per_token * layer.value("tokens") == pytest.approx(layer_bytes(setup))
    assert layer.value("one layer keeps") == pytest.approx(layer_bytes(setup))
    kept = section(sections, "Activations at their fullest")
    assert kept.value("kept by layers") + kept.value("kept outside of layers") == pytest.approx(
        kept_bytes(setup, stage)
    )
    logits = [line.value for line in kept.lines if line.what.startswith("logits")]
    assert sum(logits) == pytest.approx(logits_bytes(setup, stage))
    buffers = [one for one in sections if one.title == "Buffers"]
    told = sum(line.value for one in buffers for line in one.lines if not line.is_sum)
    assert told == pytest.approx(buffer_bytes(setup, stage, states_of(setup, stage)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_time_comes_to_the_estimate(name: str, make_plan_of: MakePlan) -> None:
    made = plan_named(name, make_plan_of)
    step = section(arithmetic(made), "One optimizer step")
    assert step.value("step") == pytest.approx(made.time.step_seconds, rel=1e-9)
    told = {line.what: line.value for line in step.lines}
    for field, what in TIME_TERMS.items():
        assert told.get(what, 0.0) == pytest.approx(getattr(made.time, field), rel=1e-9, abs=1e-12), what
    assert step.value("per GPU") == pytest.approx(made.tokens_per_second_per_gpu)


def test_the_host_comes_to_the_estimate(make_plan_of: MakePlan) -> None:
    for name in ("zero 2, optimizer offloaded", "zero 3, all on disk", "lora, all offloaded"):
        made = plan_named(name, make_plan_of)
        host = section(arithmetic(made), "Host")
        assert host.value("host memory") == made.memory.host_bytes
        if made.memory.disk_bytes:
            assert host.value("disk") == made.memory.disk_bytes


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["zero 3", "megatron"])
def test_every_line_is_shown_with_its_source(name: str, width: int, make_plan_of: MakePlan) -> None:
    made = plan_named(name, make_plan_of)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(explanation(made))
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    flat = " ".join(text.split())
    sources = {line.source for one in arithmetic(made) for line in one.lines if line.source}
    assert f"[{len(sources)}]" in flat
    for one in arithmetic(made):
        assert one.title in flat
    for source in sources:
        assert source in flat


def test_json_holds_every_line(long_pipeline: Plan) -> None:
    told = arithmetic_json(long_pipeline)
    assert [one["title"] for one in told] == [one.title for one in arithmetic(long_pipeline)]
    for one in told:
        for line in one["lines"]:
            assert math.isfinite(line["value"])
            assert line["how"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0 ms"), (2e-6, "2.0 us"), (0.00123, "1.23 ms"), (0.4, "400 ms"), (75, "1 min 15 s")]
)
def test_short_times_keep_their_figures(seconds: float, words: str) -> None:
    assert short_seconds(seconds) == words


def test_the_split_of_a_pipeline_is_set_against_an_even_one(make_plan_of: MakePlan) -> None:
    work = {"seq_len": 4096, "global_batch": 64}
    balanced = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=work, engine="pipeline", pp=4)
    even = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=work, engine="pipeline", pp=4, stages=(8, 8, 8, 8))
    first, second = (section(arithmetic(one), "One layer") for one in (balanced, even))
    assert first.value("slowest stage") < first.value("evenly divided") == second.value("slowest stage")
    assert "evenly divided" not in {line.what for line in second.lines}
    layers = [first.value(name) for name in ("forward", "backward")]
    assert first.value("evenly divided") >= 8 * sum(layers) + first.value("head")
    # What the slowest stage saves on every micro-batch is what the step is shorter, all else alike.
    saved = first.value("evenly divided") - first.value("slowest stage")
    shorter = even.time.bubble_seconds - balanced.time.bubble_seconds
    assert shorter == pytest.approx((balanced.strategy.grad_accum - 1) * saved)
