"""A run folder appears whole or not at all, and never over another run unasked."""

import json
import os
from pathlib import Path

import pytest

import toolkit.emitters
from toolkit.emitters import emit
from toolkit.emitters.ds_config import ds_config
from toolkit.emitters.megatron_args import megatron_args
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.data import DataConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

FILES = {"accelerate.yaml", "ds_config.json", "launch.sh", "plan.json", "recipe.yaml"}
MEGATRON_FILES = FILES - {"ds_config.json"} | {"megatron_args.sh"}
WORK = Workload(seq_len=512, global_batch=8)
MODEL, CLUSTER = ModelSpec.resolve("smollm-135m"), ClusterSpec.resolve("2xA100-80GB")
PLAN = make_plan(MODEL, CLUSTER, WORK, fixed=Fixed(engine="zero"))
MEGATRON = make_plan(MODEL, CLUSTER, WORK, fixed=Fixed(engine="mcore"))
RECIPE = Recipe(model="smollm-135m", workload=WORK, data=DataConfig(train="samples.jsonl"))


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_everything_is_written_and_reads_back(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    assert emit(PLAN, folder, RECIPE) == folder
    assert names(folder) == FILES
    assert names(folder.parent) == {"first"}
    assert Plan.load(folder / "plan.json") == PLAN
    assert Recipe.load(folder / "recipe.yaml") == RECIPE
    assert json.loads((folder / "ds_config.json").read_text()) == ds_config(PLAN)
    assert str(folder / "ds_config.json") in (folder / "accelerate.yaml").read_text()
    assert os.access(folder / "launch.sh", os.X_OK)


def test_the_folder_is_as_open_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = emit(PLAN, tmp_path / "run", RECIPE)
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("broken", ["ds_config", "accelerate_yaml", "launch_script"])
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, exists: bool
) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toolkit.emitters, broken, full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
        emit(PLAN, folder, RECIPE)
    assert names(tmp_path) == ({"run"} if exists else set())
    assert not exists or names(folder) == set()


@pytest.mark.parametrize("mark", ["plan.json", "telemetry.jsonl"])
def test_another_run_is_not_written_over(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("kept")
    with pytest.raises(ConfigError) as failure:
        emit(PLAN, tmp_path, RECIPE)
    assert str(failure.value) == f"{tmp_path} already holds a run ({mark}); name another folder or add --overwrite"
    assert names(tmp_path) == {mark}
    assert (tmp_path / mark).read_text() == "kept"


@pytest.mark.parametrize(("finished", "left"), [(True, set()), (False, {"telemetry.jsonl", "checkpoints"})])
def test_overwrite_replaces_the_files(tmp_path: Path, finished: bool, left: set[str]) -> None:
    """The results of a finished run belong to its plan; an unfinished one may go on with another."""
    folder = emit(PLAN, tmp_path / "run", RECIPE)
    (folder / "telemetry.jsonl").write_text("of another plan")
    (folder / "checkpoints").mkdir()
    if finished:
        (folder / "summary.json").write_text("{}")
    (folder / "mine.txt").write_text("kept")
    (folder / "plan.json").write_text("old")
    emit(PLAN, folder, RECIPE, overwrite=True)
    assert Plan.load(folder / "plan.json") == PLAN
    assert names(folder) == {*FILES, "mine.txt", *left}
    assert names(tmp_path) == {"run"}


def test_a_folder_with_other_files_is_fine(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    emit(PLAN, tmp_path, RECIPE)
    assert names(tmp_path) == {*FILES, "notes.txt"}


def test_the_working_directory_may_be_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    emit(PLAN, Path(), RECIPE)
    assert names(Path()) == FILES


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match=r"run: cannot be written \(.+\); name a folder"):
        emit(PLAN, tmp_path / "run", RECIPE)
    assert names(tmp_path) == {"run"}


def test_a_recipe_for_another_workload_is_refused(tmp_path: Path) -> None:
    other = RECIPE.model_copy(update={"workload": WORK.model_copy(update={"seq_len": 1024, "global_batch": 16})})
    with pytest.raises(ConfigError, match=r"seq_len is 1024, planned 512; global_batch is 16, planned 8"):
        emit(PLAN, tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


DIVIDED = [{"tp": 2}, {"pp": 2}, {"sp": 2}, {"cp": 2}, {"pp": 2, "vpp": 2}, {"engine": "mcore", "tp": 2}]


@pytest.mark.parametrize("given", DIVIDED, ids=str)
def test_every_way_to_divide_a_replica_is_written(tmp_path: Path, given: dict[str, object]) -> None:
    divided = make_plan(ModelSpec.resolve("llama-3.2-1b"), CLUSTER, WORK, fixed=Fixed.model_validate(given))
    files = FILES if divided.strategy.on_deepspeed else MEGATRON_FILES
    assert names(emit(divided, tmp_path / "run", RECIPE)) == files
    strategy = Plan.load(tmp_path / "run/plan.json").strategy
    assert {name: {**strategy.model_dump(), **strategy.degrees}[name] for name in given} == given


def test_a_run_on_megatron_has_no_deepspeed_file(tmp_path: Path) -> None:
    folder = emit(MEGATRON, tmp_path / "run", RECIPE)
    assert names(folder) == MEGATRON_FILES
    assert (folder / "megatron_args.sh").read_text() == megatron_args(MEGATRON, RECIPE)
    for name in ("accelerate.yaml", "launch.sh"):
        assert "deepspeed" not in (folder / name).read_text().lower()


@pytest.mark.parametrize(
    ("before", "after", "files"), [(PLAN, MEGATRON, MEGATRON_FILES), (MEGATRON, PLAN, FILES)], ids=["from zero", "back"]
)
def test_another_engine_leaves_none_of_the_first_ones_files(
    tmp_path: Path, before: Plan, after: Plan, files: set[str]
) -> None:
    folder = emit(before, tmp_path / "run", RECIPE)
    emit(after, folder, RECIPE, overwrite=True)
    assert names(folder) == files
    assert Plan.load(folder / "plan.json") == after


def test_a_recipe_that_the_engine_cannot_follow_is_refused(tmp_path: Path) -> None:
    noisy = RECIPE.model_copy(update={"neftune_alpha": 5.0})
    with pytest.raises(ConfigError, match=r"^neftune_alpha=5: engine mcore .*; or plan again with --engine zero$"):
        emit(MEGATRON, tmp_path / "run", noisy)
    assert not list(tmp_path.iterdir())
    assert names(emit(PLAN, tmp_path / "run", noisy)) == FILES


def test_qlora_is_written_for_gpus(tmp_path: Path) -> None:
    work = Workload(seq_len=512, global_batch=8, method="qlora")
    made = make_plan(ModelSpec.resolve("smollm-135m"), ClusterSpec.resolve("2xA100-80GB"), work, fixed=Fixed())
    assert (made.strategy.engine, made.strategy.zero_stage) in {("zero", 1), ("zero", 2)}
    assert names(emit(made, tmp_path / "run", Recipe(model="smollm-135m", workload=work))) == FILES
