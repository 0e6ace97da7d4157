"""What engine mcore refuses of steps, models, recipes and launchers; what keeps the search away from it."""

from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ConfigError, SpecError
from toolkit.planner.api import estimate, plan
from toolkit.planner.plan import Plan
from toolkit.specs.model import ModelSpec, RopeScaling
from toolkit.specs.recipe import Recipe

WORK = {"seq_len": 4096, "global_batch": 64}
LLAMA = ModelSpec.resolve("llama-3.1-8b")


def judged(model: ModelSpec = LLAMA, cluster: str = "8xA100-80GB", **layout: Any) -> Plan:
    work = {**WORK, **layout.pop("work", {})}
    return estimate(model, cluster, work=work, strategy={"engine": "mcore", **layout})


def refused(model: ModelSpec = LLAMA, cluster: str = "8xA100-80GB", **layout: Any) -> str:
    with pytest.raises(SpecError) as failure:
        judged(model, cluster, **layout)
    return str(failure.value)


STEP = {
    "loss=chunked: engine mcore has a loss of its own; use loss=full": {"work": {"loss": "chunked"}},
    "compile=true: engine mcore compiles what it can by itself; use compile=false": {"work": {"compile": True}},
    "attention=eager: engine mcore chooses its own kernels; leave it out": {"work": {"attention": "eager"}},
    "mixed=autocast: engine mcore has master; use it, or engine=zero": {"work": {"mixed": "autocast"}},
    "optimizer=sgd: engine mcore has adamw; use one of them, or engine=zero": {"work": {"optimizer": "sgd"}},
    "checkpointing_every=2: engine mcore recomputes all layers or none; use checkpointing_every=1": {
        "checkpointing_every": 2
    },
    "offload_activations=cpu: engine mcore keeps them on the device; use none": {"offload_activations": "cpu"},
    "sp=2: engine mcore has no sequence parallelism; use sp=1": {"sp": 2},
    "lora_targets=lm_head: engine mcore adapts layers of the decoder; leave lm_head out": {
        "work": {"method": "lora", "lora_targets": ("q_proj", "lm_head")}
    },
}


@pytest.mark.parametrize("words", STEP)
def test_what_a_step_cannot_have_is_refused(words: str) -> None:
    assert refused(**STEP[words]) == words


MODELS = {
    "rope_type=yarn": {"rope_scaling": RopeScaling(rope_type="yarn", factor=4.0)},
    "rope_type=dynamic": {"rope_scaling": RopeScaling(rope_type="dynamic", factor=4.0)},
    "rope_type=longrope": {"rope_scaling": RopeScaling(rope_type="longrope")},
    "attention_bias=true": {"attention_bias": True},
    "mlp_bias=true": {"mlp_bias": True},
    "seq_len=4096": {"sliding_window": 2048},
}


@pytest.mark.parametrize("words", MODELS)
def test_models_whose_layers_it_does_not_have_are_refused_and_planned_for_others(words: str) -> None:
    model = LLAMA.model_copy(update=MODELS[words])
    told = refused(model)
    assert told.startswith(words)
    assert told.endswith("engine=zero")
    assert len(told.splitlines()) == 1
    free = plan(model, "8xA100-80GB", **WORK)
    assert {free.strategy.engine, *(one.strategy.engine for one in free.pareto)} <= {"zero", "pipeline"}


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"rope_scaling": RopeScaling(rope_type="linear", factor=2.0)},
        {"rope_scaling": None},
        # No token is as far away as the window is wide.
        {"sliding_window": 4096},
    ],
)
def test_models_whose_layers_it_has_are_planned(update: dict[str, Any]) -> None:
    assert judged(LLAMA.model_copy(update=update)).strategy.engine == "mcore"


def recipe(method: str = "full", **rest: Any) -> Recipe:
    work = {**WORK, "method": method}
    return Recipe.parse({"model": "llama-3.1-8b", "workload": work, **rest}, source="test")


RECIPES: dict[str, dict[str, Any]] = {
    "clipping.kind=agc: engine mcore clips all gradients by one factor; use norm": {"clipping": {"kind": "agc"}},
    "neftune_alpha=5: engine mcore adds no noise to embeddings; leave it out": {"neftune_alpha": 5},
    "lora.dora=true: engine mcore learns no lengths of rows; use lora.dora=false": {
        "method": "lora",
        "lora": {"dora": True},
    },
    "lora.dropout=0.1: engine mcore has no dropout before adapters; use 0": {
        "method": "lora",
        "lora": {"dropout": 0.1},
    },
}


@pytest.mark.parametrize("words", RECIPES)
def test_recipes_that_it_cannot_follow_are_refused(words: str) -> None:
    asked = recipe(**RECIPES[words])
    made = judged(work={"method": asked.workload.method})
    assert made.recipe_faults(asked) == [words]
    with pytest.raises(ConfigError) as failure:
        made.check_recipe(asked)
    assert str(failure.value) == f"{words}; or plan again with --engine zero"
    other = estimate(LLAMA, "8xA100-80GB", work=made.workload.model_dump(), strategy={"engine": "zero"})
    assert other.recipe_faults(asked) == []
    other.check_recipe(asked)


def test_all_that_a_recipe_asks_for_is_told_at_once() -> None:
    asked = recipe("lora", neftune_alpha=5, lora={"dora": True, "dropout": 0.1}, clipping={"kind": "value"})
    assert len(judged(work={"method": "lora"}).recipe_faults(asked)) == 4
    # Numbers of adapters count where there are some.
    assert judged().recipe_faults(recipe(lora={"dropout": 0.1})) == []


def test_ranks_that_accelerate_started_for_another_layout_are_refused() -> None:
    made = judged(tp=2, pp=2)
    planned = {"MEGATRON_LM_TP_DEGREE": "2", "MEGATRON_LM_PP_DEGREE": "2", "MEGATRON_LM_CONTEXT_PARALLEL_SIZE": "1"}
    planned |= {"MEGATRON_LM_SEQUENCE_PARALLELISM": "true", "MEGATRON_LM_GRADIENT_CLIPPING": "1.0"}
    made.check_launcher({})
    made.check_launcher(planned)
    others = {"TP_DEGREE": "4", "CONTEXT_PARALLEL_SIZE": "2", "RECOMPUTE_GRANULARITY": "full"}
    changed = {**planned, **{f"MEGATRON_LM_{name}": value for name, value in others.items()}}
    with pytest.raises(ConfigError) as failure:
        made.check_launcher(changed)
    assert str(failure.value).partition("; change it back")[0] == (
        "accelerate launches another run than plan.json: megatron_lm_tp_degree is 4, planned 2; "
        "megatron_lm_context_parallel_size is 2, planned 1; megatron_lm_recompute_granularity is full, "
        "planned without it"
    )
    # DeepSpeed's engines are started with a file of their own.
    estimate(LLAMA, "8xA100-80GB", work=WORK, strategy={"engine": "zero"}).check_launcher(changed)


def test_other_ranks_than_planned_are_refused(tmp_path: Path) -> None:
    made = judged(tp=2)
    made.check_ranks({"WORLD_SIZE": "8"}, tmp_path)
    with pytest.raises(ConfigError, match=r"^4 process"):
        made.check_ranks({"WORLD_SIZE": "4"}, tmp_path)
    with pytest.raises(ConfigError, match="megatron_lm_tp_degree is 1, planned 2"):
        made.check_ranks({"WORLD_SIZE": "8", "MEGATRON_LM_TP_DEGREE": "1"}, tmp_path)
