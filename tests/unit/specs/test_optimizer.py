"""An optimizer's numbers: its own advice where nothing was given, also when a recipe changes its optimizer."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from toolkit.cli.recipe_values import recipe_values
from toolkit.errors import SpecError
from toolkit.specs.optimizer import ADVISED, OPTIMIZER_NAMES, OptimizerConfig, OptimizerName
from toolkit.specs.recipe import Recipe

PAIRS = list(permutations(OPTIMIZER_NAMES, 2))


def recipe_of(name: OptimizerName, **numbers: Any) -> Recipe:
    work = {"seq_len": 512, "global_batch": 8, "optimizer": name}
    return Recipe.parse({"model": "tinyllama", "workload": work, "optimizer": numbers}, source="test")


def changed(folder: Path, recipe: Recipe, *, to: OptimizerName, **options: Any) -> OptimizerConfig:
    """As `toolkit plan --recipe recipe.yaml --optimizer TO` reads it."""
    recipe.save(folder / "recipe.yaml")
    given = {"workload.optimizer": to, **{f"optimizer.{name}": value for name, value in options.items()}}
    return Recipe.parse(recipe_values(folder / "recipe.yaml", options=given, assignments=[]), source="test").optimizer


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_written_recipe_takes_another_optimizer(tmp_path: Path, one: OptimizerName, other: OptimizerName) -> None:
    assert changed(tmp_path, recipe_of(one), to=other) == recipe_of(other).optimizer


def test_what_was_given_is_kept(tmp_path: Path) -> None:
    recipe = recipe_of("adamw", learning_rate="1e-4", beta2=0.95, weight_decay=0.1, decay_all=True)
    found = changed(tmp_path, recipe, to="lion")
    assert found == recipe_of("lion", learning_rate=1e-4, beta2=0.95, weight_decay=0.1, decay_all=True).optimizer


def test_what_the_line_gives_is_kept_though_it_is_the_old_default(tmp_path: Path) -> None:
    assert changed(tmp_path, recipe_of("adamw"), to="adafactor", learning_rate=2e-5).learning_rate == 2e-5
    recipe_of("adamw").save(tmp_path / "recipe.yaml")
    wanted = recipe_values(
        tmp_path / "recipe.yaml", options={}, assignments=["workload.optimizer=lion", "optimizer.beta2=0.999"]
    )
    assert Recipe.parse(wanted, source="test").optimizer.beta2 == 0.999


def test_as_people_write_them(tmp_path: Path) -> None:
    """YAML reads 2e-5 as text, and a recipe without a word on its optimizer has adamw."""
    text = "model: tinyllama\nworkload: {seq_len: 8, global_batch: 1}\noptimizer: {learning_rate: 2e-5, beta2: 0.999}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    wanted = recipe_values(tmp_path / "recipe.yaml", options={"workload.optimizer": "lion"}, assignments=[])
    assert wanted["optimizer"] == {}


def test_the_same_optimizer_changes_nothing(tmp_path: Path) -> None:
    """Not even numbers that are another one's advice."""
    recipe = recipe_of("lion", learning_rate=2e-5, beta2=0.999)
    assert changed(tmp_path, recipe, to="lion") == recipe.optimizer


@pytest.mark.parametrize("text", ["optimizer: 3", "optimizer: {beta2: [1]}", "workload: {optimizer: adam}"])
def test_what_is_wrong_in_the_file_is_told_of_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    options = {"workload.optimizer": "sgd", "workload.seq_len": 8, "workload.global_batch": 1, "model": "tinyllama"}
    wanted = recipe_values(tmp_path / "recipe.yaml", options=options, assignments=[])
    if text.startswith("optimizer"):
        with pytest.raises(SpecError, match=r"recipe\.yaml: `optimizer"):
            Recipe.parse(wanted, source="recipe.yaml")
    else:
        assert Recipe.parse(wanted, source="recipe.yaml").optimizer == recipe_of("sgd").optimizer


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_every_optimizer_begins_at_a_rate_of_its_own_kind(name: OptimizerName) -> None:
    assert recipe_of(name).optimizer.learning_rate == ADVISED.get(name, {}).get("learning_rate", 2e-5)
    assert recipe_of(name, learning_rate=3e-4).optimizer.learning_rate == 3e-4
