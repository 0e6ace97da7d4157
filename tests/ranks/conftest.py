"""Models that the tests on several ranks share; random weights, made once."""

from pathlib import Path

import pytest

from ranks.tiny import write_model


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers and a head of its own."""
    return write_model(tmp_path_factory.mktemp("models") / "untied")


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers; the head is the embedding."""
    return write_model(tmp_path_factory.mktemp("models") / "tied", num_layers=3, tied=True)


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers with weights as small as LLaMA's own at the start: roundings of bf16 and fp16 grow slowly."""
    return write_model(tmp_path_factory.mktemp("models") / "calm", spread=0.02)
