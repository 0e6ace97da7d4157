"""`toolkit calibrate` refuses what it cannot do before any process starts."""

import os
from pathlib import Path
from typing import Any

import pytest

from toolkit.calibration import calibrate as module
from toolkit.calibration.calibrate import calibrate
from toolkit.errors import ConfigError, EngineError, MachineError, SpecError


@pytest.fixture(autouse=True)
def _a_cpu_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def refuse(*args: Any, **options: Any) -> None:
        raise EngineError("started")

    monkeypatch.setattr(module, "run_ranks", refuse)


def test_a_good_request_starts_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="started"):
        calibrate(tmp_path / "m.yaml", num_ranks=1)
    assert not list(tmp_path.iterdir())


def test_more_ranks_than_processors(tmp_path: Path) -> None:
    processors = len(os.sched_getaffinity(0))
    with pytest.raises(MachineError, match=rf"--ranks {processors + 1}: this machine has {processors} processor"):
        calibrate(tmp_path / "m.yaml", num_ranks=processors + 1)


@pytest.mark.parametrize("ranks", [0, -1])
def test_no_ranks(tmp_path: Path, ranks: int) -> None:
    with pytest.raises(MachineError, match=f"--ranks {ranks}: .*use 1 to"):
        calibrate(tmp_path / "m.yaml", num_ranks=ranks)


@pytest.mark.parametrize("budget", [0.0, -3.0, 4.9, float("nan"), float("inf")])
def test_a_budget_that_measures_nothing(tmp_path: Path, budget: float) -> None:
    with pytest.raises(SpecError, match="needs at least 5 seconds"):
        calibrate(tmp_path / "m.yaml", budget_seconds=budget)


def test_an_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`precision` is 'fp64'"):
        calibrate(tmp_path / "m.yaml", precision="fp64")


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="pass --overwrite"):
        calibrate(path)
    with pytest.raises(EngineError):
        calibrate(path, num_ranks=1, overwrite=True)
    assert path.read_text() == "mine"


def test_a_name_that_cluster_would_not_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"write to .*machine\.yaml"):
        calibrate(tmp_path / "machine")


def test_folders_in_the_way_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        calibrate(tmp_path / "a.yaml", overwrite=True)
    with pytest.raises(ConfigError, match="does not exist"):
        calibrate(tmp_path / "none" / "a.yaml")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a file system that refuses, as root may write wherever modes forbid it.
    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\)"):
        calibrate(tmp_path / "m.yaml", num_ranks=1)


def test_unknown_gpus_are_measured_and_mixed_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, error in ((["NVIDIA Future 9000"] * 2, EngineError), (["NVIDIA H200", "NVIDIA L4"], MachineError)):
        monkeypatch.setattr(module, "gpu_names", lambda names=names: names)
        monkeypatch.setattr("toolkit.specs.cluster.gpu_names", lambda names=names: names)
        with pytest.raises(error):
            calibrate(tmp_path / "m.yaml")
