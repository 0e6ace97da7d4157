"""One recipe, many plans: every layout trains, answers and exports what data parallelism does.

One layout of the trained model goes through `toolkit.launch`, the others through the same `finetune.py` in warm ranks.

Measured: losses differ by at most 1.2e-6 between layouts, and by 6e-7 from plain transformers; logits of the exported
models by 2.1e-5 (trained) and 2.8e-6 (demo).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

import toolkit
from ranks.instructions import first_batch, one_process_loss, write_samples
from ranks.runs import in_warm_ranks
from toolkit.demo.run import demo_recipe
from toolkit.report.runs import Run
from toolkit.specs.recipe import Recipe

pytestmark = pytest.mark.ranks

LOSS = 3e-6
LOGITS = {"trained": 1e-4, "demo": 1e-5}
"""The trained model's reach 18; a change of every weight in its last bit moves them by 2e-5."""
TWO_REPLICAS: dict[str, Any] = {"cluster": "2xcpu", "zero_stage": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"cluster": "2xcpu", "zero_stage": 1, "tp": 2},
    "sp2": {"cluster": "2xcpu", "zero_stage": 3, "sp": 2},
    "pp2": {"cluster": "2xcpu", "pp": 2},
    "pp2-tp2": {"cluster": "4xcpu", "pp": 2, "tp": 2},
    "mcore-tp2": {"cluster": "2xcpu", "engine": "mcore", "tp": 2},
    "mcore-pp2": {"cluster": "2xcpu", "engine": "mcore", "pp": 2},
}


class Task(NamedTuple):
    """A recipe, and its run on two replicas of one rank each."""

    recipe: Recipe
    folder: Path
    """For runs and prepared rows."""
    two_replicas: Run
    logits: float
    """Largest difference between exported models."""


def trained_recipe(folder: Path, shared_data: Path) -> dict[str, Any]:
    """The trained LLaMA on real instructions; 5 layers, tied embeddings, grouped queries."""
    samples = write_samples(folder / "samples.jsonl", "alpaca", shared_data)
    return {
        "model": str(shared_data / "models" / "stories260K-hf-fp32"),
        "workload": {"seq_len": 128, "global_batch": 8, "precision": "fp32"},
        "data": {"train": str(samples), "held_out_fraction": 0.1, "template": "plain"},
        "max_steps": 6,
        "optimizer": {"learning_rate": 5e-4},
        "schedule": {"warmup_steps": 2},
    }


def short_demo_recipe(folder: Path) -> dict[str, Any]:
    """The demo's own, ended early."""
    recipe = demo_recipe(folder, None, None)
    work = {"seq_len": recipe.pop("seq_len"), "global_batch": recipe.pop("global_batch"), "precision": "fp32"}
    del recipe["epochs"]
    return {**recipe, "workload": work, "max_steps": 4}


@pytest.fixture(scope="module", params=["trained", pytest.param("demo", marks=pytest.mark.soak)])
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "trained":
        wanted = trained_recipe(folder, request.getfixturevalue("shared_data"))
    else:
        wanted = short_demo_recipe(folder)
    evaluation = {"exact_match_samples": 6, "max_new_tokens": 6, "loss_samples": 16}
    recipe = Recipe.parse({**wanted, "evaluation": evaluation, "trackers": []}, source="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        two_replicas = run_of(recipe, folder / "two-replicas", TWO_REPLICAS, start=in_warm_ranks)
        yield Task(recipe, folder, two_replicas, LOGITS[request.param])


def run_of(recipe: Recipe, folder: Path, layout: dict[str, Any], *, start: Callable[[Path], object]) -> Run:
    """Plan for this layout, and train; a replica of both ranks has four micro-batches per step, one of two has two."""
    plan = toolkit.plan(
        recipe.model, micro_batch=recipe.workload.global_batch // 4, **recipe.workload.model_dump(), **layout
    )
    toolkit.emit(plan, folder, recipe)
    start(folder)
    return toolkit.load_run(folder)


@pytest.fixture(scope="module")
def batch(task: Task) -> dict[str, torch.Tensor]:
    rows = first_batch(task.recipe, task.folder / "prepared")
    return {name: rows[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def logits(run: Run, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the exported folder in plain transformers."""
    model, report = AutoModelForCausalLM.from_pretrained(run.export, output_loading_info=True)
    assert not any(report.values())
    return model(**batch).logits


def test_begins_as_plain_transformers(task: Task) -> None:
    first = one_process_loss(task.recipe, task.folder / "prepared")
    assert task.two_replicas.steps[0]["loss"] == pytest.approx(first, abs=LOSS)
    assert task.two_replicas.steps[-1]["loss"] < first - 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_plan_for_the_same_recipe(task: Task, layout: str, batch: dict[str, torch.Tensor]) -> None:
    assert_same_run(task, layout, batch, start=in_warm_ranks)


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_plan_through_the_launcher(task: Task, layout: str, batch: dict[str, torch.Tensor]) -> None:
    assert_same_run(task, layout, batch, start=toolkit.launch)


def assert_parts_of_steps_are_told(run: Run) -> None:
    """They sum to nearly all of a step, and each engine tells its own."""
    engine = run.plan.strategy.engine
    passes = {"zero": {"forward", "backward", "optimizer"}, "pipeline": {"pipeline"}, "mcore": {"passes", "optimizer"}}
    for step in run.steps:
        parts = {name.removesuffix("_seconds"): value for name, value in step.items() if name.endswith("_seconds")}
        whole = parts.pop("step")
        assert parts.keys() == passes[engine] | {"data", "waiting"}
        assert min(parts.values()) >= 0
        assert 0.5 * whole < sum(parts.values()) <= whole


def assert_same_run(
    task: Task, layout: str, batch: dict[str, torch.Tensor], *, start: Callable[[Path], object]
) -> None:
    """Losses, evaluation, answers and exported logits are those of two replicas."""
    run = run_of(task.recipe, task.folder / f"{layout}-{start.__name__}", LAYOUTS[layout], start=start)
    one = task.two_replicas
    assert run.folder.recipe.read_bytes() == one.folder.recipe.read_bytes()
    assert run.plan.strategy.layout != one.plan.strategy.layout
    assert_parts_of_steps_are_told(run)
    assert [step["loss"] for step in run.steps] == pytest.approx([step["loss"] for step in one.steps], rel=0, abs=LOSS)
    for name in ("held_out_loss_before", "held_out_loss_after", "exact_match_before", "exact_match_after"):
        assert run.summary[name] == pytest.approx(one.summary[name], rel=0, abs=LOSS), name
    assert run.summary["example"] == one.summary["example"]
    torch.testing.assert_close(logits(run, batch), logits(one, batch), rtol=0, atol=task.logits)
