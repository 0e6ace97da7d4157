"""Fixtures for every tier of tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Processes that tests start import this checkout's toolkit, also where the environment has another one's."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with tokenizers, small models and data sets, whose licences keep them out of the repository."""
    beside = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("TOOLKIT_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no test data: set TOOLKIT_SHARED_DATA to its folder, or put it in ../shared/data")
    return folder
