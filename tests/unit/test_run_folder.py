"""A run folder's results are refused, removed when a new run begins, and claimed by one process at a time."""

from pathlib import Path

import pytest

from toolkit.errors import ConfigError
from toolkit.run_folder import RunFolder


def test_results_are_refused_by_name_and_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.refuse_results()
    run.telemetry.write_text("{}\n")
    run.export.mkdir()
    run.adapter.mkdir()
    with pytest.raises(ConfigError, match=r"holds another run \(telemetry.jsonl, final, adapter\); give --overwrite"):
        run.refuse_results()
    assert run.results() == [run.telemetry, run.export, run.adapter]


def test_only_results_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for path in (run.telemetry, run.summary, run.recipe):
        path.write_text("x")
    for folder in (run.export, run.adapter):
        folder.mkdir()
        (folder / "model.safetensors").write_text("x")
    run.remove_results()
    assert list(tmp_path.iterdir()) == [run.recipe]


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
