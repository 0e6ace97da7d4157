"""S8: who may read what is written is the umask's business, and nothing is written through a link that lies there."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import toolkit
from toolkit.checkpoints.publish import published
from toolkit.engines.base import StepResult
from toolkit.errors import CheckpointError, ConfigError
from toolkit.planner.plan import Plan
from toolkit.report.plan_page import draw_plan
from toolkit.report.show import show_run
from toolkit.run_folder import RunFolder
from toolkit.training.evaluation import Answer, Evaluation
from toolkit.training.summary import write_summary
from toolkit.training.telemetry import Telemetry

PRECIOUS = "what the user has nowhere else"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return toolkit.plan("smollm-135m", "2xcpu", seq_len=32, global_batch=4)


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the user's outside of the run folder, which links will lead to."""
    path = tmp_path / "precious" / "file"
    path.parent.mkdir()
    path.write_text(PRECIOUS)
    return path


def emitted(plan: Plan, folder: Path, *, overwrite: bool = False) -> RunFolder:
    recipe = toolkit.Recipe(model="smollm-135m", workload=plan.workload)
    return RunFolder(toolkit.emit(plan, folder, recipe, overwrite=overwrite))


def train(run: RunFolder, plan: Plan) -> None:
    """What a run writes, without the training: as finetune.py does it."""
    engine: Any = SimpleNamespace(rank=0, device=torch.device("cpu"))
    lock = run.lock()
    run.remove_results(all_of_them=True)
    result = StepResult(
        loss=2.0,
        grad_norm=1.0,
        clipped_norm=1.0,
        tokens=9,
        supervised_tokens=9,
        loss_scale=1.0,
        skipped=False,
    )
    with Telemetry(run, engine, num_steps=1) as telemetry:
        telemetry.record(1, result, learning_rate=0.1, epoch=1.0, data_seconds=0.0)
        telemetry.evaluated(1, Evaluation(2.0, None, None, answers=(Answer("1 + 1", "2", "3"),)))
    for folder in (run.export, run.adapter):
        with published(folder) as partial:
            (partial / "config.json").write_text("{}")
            save_file({}, partial / "model.safetensors")
    nothing = Evaluation(loss=None, exact_match=None, example=None)
    write_summary(run, plan, telemetry.records, before=nothing, after=nothing, facts={})
    lock.close()


def everything(plan: Plan, folder: Path) -> RunFolder:
    """A run folder with all that the toolkit itself ever writes there."""
    run = emitted(plan, folder)
    train(run, plan)
    show_run(run.path, Console())
    draw_plan(plan, run.path / "plan.html")
    return run


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002], indirect=True, ids=oct)
def test_no_more_than_the_umask_allows(plan: Plan, tmp_path: Path, umask: int) -> None:
    run = everything(plan, tmp_path / "run")
    written = [run.path, *run.path.rglob("*")]
    assert len(written) > 15
    for path in written:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & umask, f"{path.name} is {mode:o}"
        runs = path.is_dir() or path == run.script
        assert mode & 0o700 == (0o700 if runs else 0o600), f"{path.name} is {mode:o}"
        assert mode & 0o111 == (0 if not runs else (mode & 0o444) >> 2), f"{path.name} is {mode:o}"


NAMES = [
    "telemetry.jsonl",
    "evaluations.jsonl",
    "answers.jsonl",
    "summary.json",
    "summary.json.partial",
    "final",
    ".final.partial",
    "adapter",
    ".adapter.partial",
    "plots",
    "plots/loss.png",
    "plots/throughput.png",
    "plots/.memory.png.partial",
    "report.html",
    ".report.html.partial",
    "plan.html",
    ".plan.html.partial",
]


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_links_that_lie_there_are_not_written_through(plan: Plan, precious: Path, name: str, dangling: bool) -> None:
    folder = precious.parent.parent / "run"
    run = emitted(plan, folder)
    target = precious.parent / "not-there" if dangling else precious.parent if name in ("final", "plots") else precious
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(target)
    train(run, plan)
    if name.startswith("plots") or "report" in name:
        run.plots.mkdir(exist_ok=True)
        if not (folder / name).is_symlink() and name != "plots":
            (folder / name).symlink_to(target)  # training has tidied up: somebody puts it there again
        show_run(folder, Console())
    if "plan.html" in name:
        draw_plan(plan, folder / "plan.html")
    assert precious.read_text() == PRECIOUS
    assert list(precious.parent.iterdir()) == [precious]
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert json.loads(run.summary.read_text())["steps"] == 1


@pytest.mark.parametrize("dangling", [False, True])
def test_a_lock_that_is_a_link_is_refused(plan: Plan, precious: Path, dangling: bool) -> None:
    run = emitted(plan, precious.parent.parent / "run")
    (run.path / ".lock").symlink_to(precious.parent / "not-there" if dangling else precious)
    with pytest.raises(ConfigError, match="cannot be written"):
        run.lock()
    assert precious.read_text() == PRECIOUS
    assert list(precious.parent.iterdir()) == [precious]


def test_a_dangling_result_is_a_result(plan: Plan, precious: Path) -> None:
    run = emitted(plan, precious.parent.parent / "run")
    run.telemetry.symlink_to(precious.parent / "not-there")
    assert run.results() == [run.telemetry]
    run.remove_results(all_of_them=False)
    assert not run.telemetry.is_symlink()


def test_emitted_files_replace_links(plan: Plan, precious: Path) -> None:
    run = emitted(plan, precious.parent.parent / "run")
    files = (run.plan, run.recipe, run.ds_config, run.accelerate, run.script)
    for file in files:
        file.unlink()
        file.symlink_to(precious)
    emitted(plan, run.path, overwrite=True)
    assert precious.read_text() == PRECIOUS
    assert not any(file.is_symlink() for file in files)


def test_scratch_folders_have_names_that_nobody_can_guess(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    real = Plan.save

    def watched(self: Plan, path: Path) -> None:
        seen.append(path.parents[1])
        assert stat.S_IMODE(path.parents[1].stat().st_mode) == 0o700
        real(self, path)

    monkeypatch.setattr(Plan, "save", watched)
    for number in range(2):
        emitted(plan, tmp_path / "run" / str(number))
    assert [folder.parent for folder in seen] == [tmp_path / "run"] * 2
    assert len({folder.name[3:] for folder in seen}) == 2


def test_a_file_where_the_export_goes(tmp_path: Path) -> None:
    (tmp_path / ".final.partial").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"), published(tmp_path / "final"):
        pass
    assert not (tmp_path / "final").exists()
