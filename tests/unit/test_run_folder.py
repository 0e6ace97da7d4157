"""A run folder's results are refused, removed when a new run begins, and claimed by one process at a time."""

from pathlib import Path

import pytest

from toolkit.errors import ConfigError
from toolkit.run_folder import RunFolder


def test_a_finished_run_is_refused_by_name_and_stays(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.telemetry.write_text("{}\n")
    run.refuse_finished()
    run.summary.write_text("{}")
    run.export.mkdir()
    with pytest.raises(ConfigError, match=r"a finished run \(telemetry.jsonl, summary.json, final\); give --overwrite"):
        run.refuse_finished()
    assert run.results() == [run.telemetry, run.summary, run.export]


def test_only_results_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for path in (run.telemetry, run.summary, run.recipe):
        path.write_text("x")
    for folder in (run.export, run.adapter):
        folder.mkdir()
        (folder / "model.safetensors").write_text("x")
    run.remove_results(all_of_them=True)
    assert list(tmp_path.iterdir()) == [run.recipe]


def test_what_a_run_needs_to_go_on_stays(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for path in (run.telemetry, run.summary, run.before, run.events):
        path.write_text("x")
    for folder in (run.export, run.checkpoints):
        folder.mkdir()
    run.remove_results(all_of_them=False)
    assert set(tmp_path.iterdir()) == {run.telemetry, run.before, run.events, run.checkpoints}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    claim = run.lock()
    with pytest.raises(ConfigError, match="another process trains here"):
        run.lock()
    claim.close()
    run.lock().close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path).lock()
