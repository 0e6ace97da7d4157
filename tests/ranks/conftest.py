"""Models that all tests on several ranks share."""

from pathlib import Path

import pytest
from ranks.tiny import write_model


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaMA of 3 layers with a head of its own."""
    return write_model(tmp_path_factory.mktemp("models") / "untied")


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaMA of 2 layers whose head is its embedding."""
    return write_model(tmp_path_factory.mktemp("models") / "tied", num_layers=2, tied=True)
