"""The plan counts the adapters that the recipe has, not those of all linear layers."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import toolkit
from toolkit.cli import options
from toolkit.cli.planning import app
from toolkit.cli.recipe_values import recipe_values
from toolkit.errors import SpecError
from toolkit.planner.buckets import trainable_params
from toolkit.planner.memory.activations import kept_bytes
from toolkit.planner.memory.states import states_of
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import LINEAR_LAYERS, ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

MODEL = ModelSpec.resolve("llama-3.1-8b")
CLUSTER = ClusterSpec.resolve("8xA100-80GB")
TARGETS = [LINEAR_LAYERS, ("q_proj", "v_proj"), ("k_proj",), ("o_proj", "down_proj"), ("gate_proj", "up_proj")]


def work(targets: tuple[str, ...] | None, **more: Any) -> Workload:
    return Workload(seq_len=4096, global_batch=64, **{"method": "lora", "lora_targets": targets, **more})


def setup(targets: tuple[str, ...] | None, *, pp: int = 1) -> Setup:
    fields = {"engine": "pipeline" if pp > 1 else "zero", "zero_stage": 1, "micro_batch": 2, "grad_accum": 4 * pp}
    layout = {"layout": {"dp": 8 // pp, "pp": pp}}
    strategy = Strategy.parse(
        {"offload": "none", "activation_checkpointing": "none", **fields, **layout}, source="test"
    )
    return setup_of(MODEL, CLUSTER, workload=work(targets), strategy=strategy)


@pytest.mark.parametrize("targets", TARGETS, ids=",".join)
def test_parameters_are_those_of_the_layers(targets: tuple[str, ...]) -> None:
    expected = MODEL.num_trainable_params("lora", 16, targets=targets)
    assert Shape.of(MODEL).adapter_params(16, targets) * MODEL.num_layers == expected
    assert states_of(setup(targets), 0).trainable == setup(targets).num_trained == expected
    assert trainable_params(MODEL, work(targets)) == expected


def test_the_head_has_one_too() -> None:
    targets = ("q_proj", "lm_head")
    head = 16 * (4096 + 128_256)
    expected = MODEL.num_trainable_params("lora", 16, targets=targets) + head
    assert setup(targets).num_trained == trainable_params(MODEL, work(targets)) == expected
    stages = setup(targets, pp=2)
    layers = [states_of(setup(("q_proj",), pp=2), stage).trainable for stage in (0, 1)]
    assert [states_of(stages, stage).trainable - layers[stage] for stage in (0, 1)] == [0, head]
    assert setup(("lm_head",)).num_trained == head


def test_inputs_are_kept_for_the_layers_that_need_them() -> None:
    shape = Shape.of(MODEL)
    assert shape.adapter_inputs(shared=True) == 2 * shape.hidden + shape.query + shape.ffn
    assert shape.adapter_inputs(shared=False) == 5 * shape.hidden + shape.query + shape.ffn
    assert shape.adapter_inputs(("v_proj", "q_proj"), shared=True) == shape.hidden
    assert shape.adapter_inputs(("v_proj", "q_proj"), shared=False) == 2 * shape.hidden
    assert shape.adapter_inputs(("down_proj",), shared=True) == shape.ffn
    kept = [kept_bytes(setup(targets), 0) for targets in (None, ("q_proj", "v_proj"))]
    assert kept[1] < kept[0]


def test_a_plan_takes_less_for_fewer_adapters() -> None:
    choices = {"seq_len": 4096, "global_batch": 64, "method": "lora", "zero_stage": 1, "micro_batch": 1}
    every = toolkit.plan("llama-3.1-8b", "8xA100-80GB", **choices)
    one = toolkit.plan("llama-3.1-8b", "8xA100-80GB", **choices, lora_targets=["q_proj"])
    assert one.memory.reserved_bytes < every.memory.reserved_bytes
    assert one.time.step_seconds < every.time.step_seconds
    assert (every.workload.lora_targets, one.workload.lora_targets) == (None, ("q_proj",))


@pytest.mark.parametrize(
    ("model", "targets", "told"),
    [
        (
            "llama-3.1-8b",
            ("q_prj",),
            r"lora\.targets: no layer named q_prj; there are q_proj, .*, down_proj and lm_head",
        ),
        ("llama-3.2-1b", ("lm_head",), r"lora\.targets: lm_head is the embedding's own matrix"),
    ],
)
def test_layers_that_are_not_there_are_refused(model: str, targets: tuple[str, ...], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        toolkit.plan(model, "8xA100-80GB", seq_len=512, global_batch=8, method="lora", lora_targets=targets)


def values(path: Path | None = None, *assignments: str, **options: Any) -> dict[str, Any]:
    given = {"model": "llama-3.1-8b", "workload.seq_len": 512, "workload.global_batch": 8, **options}
    return recipe_values(path, options=given, assignments=list(assignments))


def test_the_line_tells_the_plan(tmp_path: Path) -> None:
    lora = {"workload.method": "lora"}
    assert values(None, "lora.targets=[q_proj, v_proj]", **lora)["workload"]["lora_targets"] == ["q_proj", "v_proj"]
    for others in ({}, {"lora.targets": list(reversed(LINEAR_LAYERS))}):
        assert "lora_targets" not in values(None, **lora, **others)["workload"]
    assert "lora_targets" not in values(None, "lora.targets=[q_proj]")["workload"]  # method full

    wanted = values(None, **lora, **{"lora.targets": ["q_proj"]})
    Recipe.parse(wanted, source="test").save(tmp_path / "recipe.yaml")
    again = values(tmp_path / "recipe.yaml", "lora.targets=[v_proj, k_proj]")
    assert again["workload"]["lora_targets"] == ["v_proj", "k_proj"]
    assert Recipe.parse(again, source="test").lora.targets == ("v_proj", "k_proj")
    assert "lora_targets" not in values(tmp_path / "recipe.yaml", **{"workload.method": "full"})["workload"]


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(SpecError, match="--lora-targets is ' ,', needs names"):
        options.lora_targets(" ,")


def test_a_run_folder_from_the_command_line(tmp_path: Path) -> None:
    words = ["plan", "--model", "llama-3.1-8b", "--cluster", "8xA100-80GB", "--seq-len", "512", "--global-batch", "8"]
    run = tmp_path / "run"
    result = CliRunner().invoke(app, [*words, "--method", "lora", "--lora-targets", "q_proj, v_proj", "-o", str(run)])
    assert result.exit_code == 0, result.output
    planned = json.loads((run / "plan.json").read_text())
    assert planned["workload"]["lora_targets"] == ["q_proj", "v_proj"]
    recipe = Recipe.load(run / "recipe.yaml")
    assert recipe.lora.targets == ("q_proj", "v_proj") == recipe.workload.lora_targets
