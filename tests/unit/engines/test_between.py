"""What goes together with compressed gradients and local steps; the rest is refused before any process starts."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.pipeline.engine import PipelineEngine
from toolkit.engines.zero.between import check_communication, rounds_notes
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.recipe import Recipe

TOPK, LOCAL, PLAIN = {"compression": "topk"}, {"local_steps": 8}, CommunicationConfig()
STAGES = "communication: it is for engine zero, which keeps the model whole on every rank; the plan has engine pipeline"


def check(folder: Path, communication: dict[str, Any], *, clipping: str = "norm", **choices: Any) -> None:
    plan, recipe = planned(communication, clipping=clipping, **choices)
    run = RunFolder(toolkit.emit(plan, folder / "run", recipe.model_copy(update={"communication": PLAIN})))
    check_communication(recipe, plan, load_ds_config(run, plan))


def planned(communication: dict[str, Any], *, clipping: str = "norm", **choices: Any) -> tuple[Plan, Recipe]:
    plan = toolkit.plan("tinyllama", "2xA100-80GB", seq_len=64, global_batch=4, **{"precision": "fp32", **choices})
    return plan, Recipe(
        model="tinyllama", workload=plan.workload, communication=communication, clipping={"kind": clipping}
    )


@pytest.mark.parametrize(
    ("communication", "choices", "words"),
    [
        (TOPK, {"zero_stage": 2}, "zero_stage is 2; plan again with --zero 0"),
        (TOPK, {"zero_stage": 1, "tp": 2}, "between replicas of one rank"),
        (TOPK, {"zero_stage": 0, "precision": "fp16"}, "use precision bf16 or fp32"),
        ({"compression": "fp16"}, {"zero_stage": 0, "precision": "bf16"}, "use powersgd or topk"),
        (LOCAL, {"zero_stage": 0, "clipping": "agc"}, "clipping agc is by what all replicas share"),
        (LOCAL, {"zero_stage": 0, "optimizer": "muon"}, "muon has none; use adamw, lion or sgd"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, communication: dict[str, Any], choices: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match="communication: ") as failure:
        check(tmp_path, communication, **choices)
    assert words in str(failure.value)


@pytest.mark.parametrize("communication", [TOPK, LOCAL, {"compression": "powersgd"}, {"compression": "bf16"}], ids=str)
def test_the_rest_passes(tmp_path: Path, communication: dict[str, Any]) -> None:
    check(tmp_path, communication, zero_stage=0)
    check(tmp_path / "as-ever", {}, zero_stage=3)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"engine": "pipeline", "pp": 2}, STAGES),
        ({"zero_stage": 2}, "communication: it is for whole gradients on every rank, zero_stage is 2"),
        ({"zero_stage": 1, "tp": 2}, "communication: it is between replicas of one rank"),
    ],
    ids=str,
)
@pytest.mark.parametrize("communication", [TOPK, LOCAL], ids=str)
def test_no_run_is_written_that_would_not_start(
    tmp_path: Path, communication: dict[str, Any], choices: dict[str, Any], words: str
) -> None:
    plan, recipe = planned(communication, **choices)
    with pytest.raises(ConfigError) as failure:
        toolkit.emit(plan, tmp_path / "run", recipe)
    assert words in str(failure.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asked", [("compression: none", "compression: topk"), ("local_steps: 1", "local_steps: 8")])
def test_a_pipeline_is_refused_where_the_recipe_was_edited(tmp_path: Path, asked: tuple[str, str]) -> None:
    plan, recipe = planned({}, engine="pipeline", pp=2)
    run = RunFolder(toolkit.emit(plan, tmp_path / "run", recipe))
    text = run.recipe.read_text(encoding="utf-8")
    assert asked[0] in text
    run.recipe.write_text(text.replace(*asked), encoding="utf-8")
    with pytest.raises(ConfigError) as launched:
        toolkit.launch(run.path)
    model: Any = None
    with pytest.raises(ConfigError) as started:
        PipelineEngine(plan, Recipe.load(run.recipe), model=model, folder=run)
    assert str(launched.value) == str(started.value)
    assert str(started.value).startswith(STAGES)


def test_launch_leaves_the_stage_to_ds_config() -> None:
    plan, recipe = planned(TOPK, zero_stage=2, tp=1)
    plan.check_communication(recipe.communication)
    with pytest.raises(ConfigError, match="zero_stage is 2"):
        plan.check_communication(recipe.communication, zero_stage=2)


def test_what_ends_rounds_early_is_told() -> None:
    _, recipe = planned(LOCAL, zero_stage=0)
    odd = {"evaluation": {"every_steps": 12}, "checkpoint": {"every_steps": 16}, "faults": {"compare_every": 5}}
    watched = Recipe.parse({**recipe.model_dump(), **odd}, source="test")
    assert rounds_notes(watched) == (
        "local steps: rounds of 8 end early at evaluation.every_steps 12 and faults.compare_every 5; "
        "multiples of 8 end none",
    )
    assert rounds_notes(recipe) == ()
    assert rounds_notes(watched.model_copy(update={"communication": PLAIN})) == ()
