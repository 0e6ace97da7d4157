"""A machine on which nothing is."""

from pathlib import Path

import pytest

from toolkit.doctor.machine import Machine


@pytest.fixture
def nowhere(tmp_path: Path) -> Machine:
    """No /proc, no /sys, no variables: as on systems that are not Linux."""
    for name in ("root", "folder", "home"):
        (tmp_path / name).mkdir()
    return Machine(tmp_path / "root", {}, tmp_path / "folder", tmp_path / "home", "linux")
