"""Where a slow replica can have fewer micro-batches; all else is refused when a run is written, and at its start."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.engines.mcore.engine import MegatronEngine
from toolkit.engines.pipeline.engine import PipelineEngine
from toolkit.engines.zero.engine import ZeroEngine
from toolkit.errors import ConfigError, SpecError
from toolkit.launcher.replan import recipe_for
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

BALANCED = {"balance": True}


def planned(monitoring: dict[str, Any], *, recipe: dict[str, Any] | None = None, **choices: Any) -> tuple[Plan, Recipe]:
    given = {"precision": "fp32", "micro_batch": 1, "global_batch": 8, "zero_stage": 1, **choices}
    cluster = given.pop("cluster", "2xA100-80GB")
    if given.get("engine", "zero") != "zero":
        del given["zero_stage"]
    plan = toolkit.plan("tinyllama", cluster, seq_len=64, **given)
    content = {"model": "tinyllama", "workload": plan.workload.model_dump(), "monitoring": monitoring}
    return plan, Recipe.parse({**content, **(recipe or {})}, source="recipe")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            {"zero_stage": 2},
            "zero_stage=2 sums gradients in every micro-batch, all need as many; plan again",
        ),
        ({"zero_stage": 3}, "zero_stage=3 sums gradients"),
        ({"engine": "pipeline", "pp": 2}, "engine pipeline runs as many micro-batches on every rank"),
        ({"engine": "mcore"}, "engine mcore runs as many micro-batches on every rank"),
        ({"cluster": "1xA100-80GB"}, "dp=1: one replica has nobody to share with"),
        ({"tp": 2}, "dp=1: one replica"),
        ({"global_batch": 2}, "grad_accum=1: every replica needs one micro-batch"),
        ({"zero_stage": 0, "recipe": {"communication": {"local_steps": 4}}}, "communication.local_steps=4 weighs"),
        ({"method": "lora", "recipe": {"lora": {"dropout": 0.1}}}, "lora.dropout=0.1 is drawn by rank"),
    ],
    ids=str,
)
def test_what_has_no_place_for_it_is_refused(tmp_path: Path, choices: dict[str, Any], words: str) -> None:
    plan, recipe = planned(BALANCED, **choices)
    with pytest.raises(ConfigError) as failure:
        toolkit.emit(plan, tmp_path / "run", recipe)
    (line,) = str(failure.value).splitlines()
    assert line.startswith(f"monitoring.balance: {words}")
    assert failure.value.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"zero_stage": 0},
        {"cluster": "4xA100-80GB", "tp": 2},
        {"cluster": "4xA100-80GB", "sp": 2},
        {"offload": "optimizer"},
        {"method": "lora"},
        {"zero_stage": 0, "recipe": {"communication": {"compression": "powersgd"}}},
    ],
    ids=str,
)
def test_the_rest_passes(tmp_path: Path, choices: dict[str, Any]) -> None:
    plan, recipe = planned(BALANCED, **choices)
    toolkit.emit(plan, tmp_path / "run", recipe)
    assert Recipe.load(RunFolder(tmp_path / "run").recipe).monitoring.balance


def test_all_that_is_wrong_is_told_at_once() -> None:
    plan, recipe = planned(BALANCED, zero_stage=2, global_batch=2)
    with pytest.raises(ConfigError) as failure:
        plan.check_recipe(recipe, zero_stage=2)
    assert len(str(failure.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("engine", "choices"), [(PipelineEngine, {"engine": "pipeline", "pp": 2}), (MegatronEngine, {"engine": "mcore"})]
)
def test_an_edited_recipe_is_refused_at_the_launch_and_at_the_start(
    tmp_path: Path, engine: Any, choices: dict[str, Any]
) -> None:
    run = edited(tmp_path, **choices)
    with pytest.raises(ConfigError, match="micro-batches on every rank") as launched:
        toolkit.launch(run.path)
    with pytest.raises(ConfigError) as started:
        engine(Plan.load(run.plan), Recipe.load(run.recipe), model=None, folder=run)
    assert str(launched.value) == str(started.value)


def test_the_stage_that_runs_decides(tmp_path: Path) -> None:
    """ds_config.json is for people to edit."""
    run = edited(tmp_path, zero_stage=1)
    model: Any = None
    run.ds_config.write_text(run.ds_config.read_text().replace('"stage": 1', '"stage": 2'))
    with pytest.raises(ConfigError, match=r"monitoring\.balance: zero_stage=2"):
        ZeroEngine(Plan.load(run.plan), Recipe.load(run.recipe), model=model, folder=run)


def edited(tmp_path: Path, **choices: Any) -> RunFolder:
    """A run in whose recipe the key was set by hand."""
    plan, recipe = planned({}, **choices)
    run = RunFolder(toolkit.emit(plan, tmp_path / "run", recipe))
    text = run.recipe.read_text(encoding="utf-8")
    assert "balance: false" in text
    run.recipe.write_text(text.replace("balance: false", "balance: true"), encoding="utf-8")
    return run


def test_times_have_to_be_told() -> None:
    with pytest.raises(SpecError, match="balance goes by the times that ranks tell each other; set enabled to true"):
        planned({"balance": True, "enabled": False})


def test_a_smaller_plan_goes_on_without_it() -> None:
    _, recipe = planned(BALANCED, cluster="4xA100-80GB")
    fewer, _ = planned({}, cluster="1xA100-80GB")
    assert not recipe_for(fewer, recipe).monitoring.balance
    half, _ = planned({}, cluster="2xA100-80GB")
    assert recipe_for(half, recipe) is recipe
