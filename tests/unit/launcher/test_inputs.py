"""What `toolkit launch` wants of a run folder before it starts a process, by engine."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.errors import ConfigError
from toolkit.launcher import launch
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)


def written(folder: Path, **rest: Any) -> RunFolder:
    choices = {name: rest.pop(name) for name in ("engine", "pp") if name in rest}
    plan = toolkit.plan("smollm-135m", "2xcpu", seq_len=64, global_batch=4, **choices)
    recipe = Recipe.parse({"model": "smollm-135m", "workload": plan.workload.model_dump(), **rest}, source="test")
    return RunFolder(toolkit.emit(plan, folder, recipe))


def refusal(run: RunFolder) -> str:
    with pytest.raises(ConfigError) as failure:
        launch(run.path)
    return str(failure.value)


def start_three(run: RunFolder) -> None:
    text = run.accelerate.read_text()
    run.accelerate.write_text(text.replace("num_processes: 2", "num_processes: 3"))


@pytest.mark.parametrize("choices", [{"engine": "zero"}, {"engine": "pipeline", "pp": 2}], ids=str)
def test_deepspeed_needs_its_file(choices: dict[str, Any], tmp_path: Path) -> None:
    run = written(tmp_path / "run", **choices)
    run.ds_config.unlink()
    assert refusal(run).startswith(f"{run.path}: ds_config.json missing; make the run with")


def test_megatron_needs_none(tmp_path: Path) -> None:
    run = written(tmp_path / "run", engine="mcore", pp=2)
    # For people alone.
    run.megatron_args.unlink()
    start_three(run)
    assert refusal(run).startswith(f"{run.accelerate}: num_processes is 3, the plan has 2 ranks")


@pytest.mark.parametrize("name", ["plan", "recipe", "accelerate"])
def test_every_engine_needs_these(name: str, tmp_path: Path) -> None:
    run = written(tmp_path / "run", engine="mcore", pp=2)
    file: Path = getattr(run, name)
    file.unlink()
    assert refusal(run).startswith(f"{run.path}: {file.name} missing; make the run with")


def test_a_recipe_that_was_changed_to_what_the_engine_does_not_do_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path / "run", engine="mcore", pp=2)
    Recipe.load(run.recipe).model_copy(update={"neftune_alpha": 5.0}).save(run.recipe)
    assert refusal(run).startswith("neftune_alpha=5: engine mcore adds no noise to embeddings; leave it out")
