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
    return write_model(tmp_path_factory.mktemp("models") / "tied", num_hidden_layers=3, tied=True)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers, and as many key/value heads as query heads: two ways of dividing heads go together."""
    return write_model(tmp_path_factory.mktemp("models") / "wide", num_hidden_layers=3, num_key_value_heads=4)


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 layers, and as many key/value heads as query heads: can be divided in every way, never evenly into stages."""
    return write_model(tmp_path_factory.mktemp("models") / "deep", num_hidden_layers=5, num_key_value_heads=4)


@pytest.fixture(scope="session")
def deep_tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`deep`, with the embedding as head."""
    return write_model(
        tmp_path_factory.mktemp("models") / "deep-tied", num_hidden_layers=5, num_key_value_heads=4, tied=True
    )


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral whose tokens see 12 tokens; most rows are longer."""
    return write_model(tmp_path_factory.mktemp("models") / "windowed", num_hidden_layers=3, window=12)


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers with weights as small as LLaMA's own at the start: roundings of bf16 and fp16 grow slowly."""
    return write_model(tmp_path_factory.mktemp("models") / "calm", spread=0.02)


@pytest.fixture(scope="session")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers, so that interleaved stages are equal, and a head of its own."""
    return write_model(tmp_path_factory.mktemp("models") / "even", num_hidden_layers=4)


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`even` with the embedding as head, and a vocabulary that no two ranks share evenly."""
    return write_model(tmp_path_factory.mktemp("models") / "odd", num_hidden_layers=4, tied=True, vocab_size=501)


@pytest.fixture(scope="session")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`even` with rotary embeddings that are stretched as Llama 3's, from an original length that is not theirs."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    return write_model(tmp_path_factory.mktemp("models") / "stretched", num_hidden_layers=4, rope=rope)
