"""What ds_config.json may say about the width of numbers, and what is told of it."""

from typing import Any

import pytest

import toolkit
from toolkit.emitters.ds_config import ds_config
from toolkit.engines.ds.precision import Numbers
from toolkit.errors import SpecError
from toolkit.planner.plan import Plan
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload


def planned(**choices: Any) -> Plan:
    return toolkit.plan("smollm-135m", "2xcpu", seq_len=64, global_batch=8, **choices)


def recipe(plan: Plan, learning_rate: float = 2e-5) -> Recipe:
    return Recipe(model="m", workload=plan.workload, optimizer=OptimizerConfig(learning_rate=learning_rate))


def refused(plan: Plan, *, stage: int = 2, offloads: bool = False, **sections: Any) -> list[str]:
    numbers = Numbers.model_validate({**ds_config(plan), **sections})
    return list(numbers.contradictions(plan, stage=stage, offloads=offloads))


@pytest.mark.parametrize(
    ("choices", "rounds"),
    [
        ({"precision": "fp32"}, False),
        ({"precision": "bf16"}, True),
        ({"precision": "fp16"}, True),
        ({"precision": "bf16", "mixed": "autocast"}, False),
        ({"precision": "bf16", "mixed": "none"}, True),
    ],
)
def test_what_is_written_is_read(choices: dict[str, Any], rounds: bool) -> None:
    plan = planned(**choices)
    numbers = Numbers.model_validate(ds_config(plan))
    assert (numbers.precision, numbers.mixed) == (choices["precision"], choices.get("mixed", "master"))
    assert numbers.rounds_weights is rounds
    assert not numbers.has_static_scale
    assert refused(plan) == []


@pytest.mark.parametrize(
    ("mixed", "sections", "told"),
    [
        ("master", {"fp16": {"enabled": True}}, "`bf16` and `fp16` are both enabled; keep one of them"),
        ("master", {"torch_autocast": {"enabled": True}}, "`bf16` and `torch_autocast` are both enabled"),
        ("master", {"bf16": {"enabled": True, "bf16_optimizer_states": True}}, "go together, and with `enabled`"),
        ("autocast", {"torch_autocast": {"enabled": False}}, "mixed=master, the plan has mixed=autocast"),
        ("none", {"bf16": {"enabled": True}}, "plan again with --mixed master"),
        ("autocast", {"torch_autocast": {"enabled": True, "dtype": "float16"}}, "`torch_autocast.dtype` is float16"),
        ("autocast", {"torch_autocast": {"enabled": True}}, "`torch_autocast.dtype` is None"),
        ("none", {"stage": 0}, "goes with ZeRO stage 1, 2 or 3"),
        ("none", {"offloads": True}, "without `offload_optimizer`"),
        ("master", {"fp16": {"fp16_master_weights_and_grads": True}}, "states are fp32 with fp16; remove it"),
    ],
)
def test_what_cannot_be_is_refused(mixed: str, sections: dict[str, Any], told: str) -> None:
    (line,) = refused(planned(precision="bf16", mixed=mixed), **sections)
    assert told in line


@pytest.mark.parametrize(("rate", "warns"), [(2e-5, False), (1e-5, False), (9e-6, True)])
def test_bf16_alone_warns_at_small_rates(rate: float, warns: bool) -> None:
    plan = planned(precision="bf16", mixed="none")
    (note,) = Numbers.model_validate(ds_config(plan)).notes(recipe(plan, rate))
    assert note.startswith("WARNING: ") is warns
    assert f"at learning_rate {rate:g} weights above {512 * rate:.2g} do not move" in note


def test_a_static_loss_scale_is_told() -> None:
    plan = planned(precision="fp16")
    numbers = Numbers.model_validate({"fp16": {"enabled": True, "loss_scale": 1024}})
    assert list(numbers.notes(recipe(plan))) == [
        "fp16: the loss scale stays at 1024; a step whose gradients overflow is left out, 3 in a row end the run"
    ]


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ({"precision": "fp32", "mixed": "autocast"}, "precision is fp32, which mixes nothing; use precision=bf16"),
        (
            {"precision": "fp16", "mixed": "autocast"},
            "fp16, whose loss scale DeepSpeed applies right only",
        ),
        ({"precision": "fp16", "mixed": "none"}, "mixed=none goes with bf16, precision is fp16"),
        ({"precision": "bf16", "mixed": "none", "optimizer": "lion"}, "optimizer is lion; use optimizer=adamw"),
    ],
)
def test_workloads_that_cannot_be(work: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        Workload.parse({"seq_len": 64, "global_batch": 8, **work}, source="workload")


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (
            {"mixed": "none", "zero_stage": 0},
            "zero_stage=0 with mixed=none: DeepSpeed has states in bf16 from",
        ),
        ({"mixed": "none", "offload": "optimizer"}, "offload=optimizer with mixed=none: states in bf16 stay on the"),
        ({"mixed": "autocast", "engine": "mcore"}, "mixed=autocast: engine mcore has master; use it, or engine=zero"),
    ],
)
def test_layouts_that_cannot_be(choices: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        planned(precision="bf16", **choices)
