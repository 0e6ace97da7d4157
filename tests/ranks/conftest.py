"""Models that the tests on several ranks share; random weights, made once."""

from pathlib import Path

import pytest

from ranks.tiny import write_model

REPEATED = {
    "test_after_training.py::test_equals_one_process": (
        "zero1",
        "lora-zero2",
        "tp2-zero1",
        "pp2-dp2",
        "mcore-pp2-vpp2",
    ),
    "test_bad_steps.py::test_a_bad_step_changes_nothing": (
        "zero_stage=1",
        "zero_stage=2",
        "zero_stage=3-precision=bf16",
        "pp=2-precision=bf16",
    ),
    "test_clipping.py::test_equals_one_process": ("agc-zero1", "agc-tp2"),
    "test_communication.py::test_halves_are_the_mean_rounded": ("bf16",),
    "test_communication.py::test_fp16_has_room_for_gradients_of_any_size": ("1e-07",),
    "test_low_precision.py::test_an_overflow_leaves_no_trace": ("{'zero_stage': 2}",),
    "test_other_optimizers.py::test_does_what_its_library_does": (
        "lion-{'zero_stage': 2}",
        "adafactor-{'zero_stage': 2, 'precision': 'bf16'}",
    ),
    "test_parity.py::test_divided_replicas": ("tied-tp2-zero2", "tied-sp2-zero2"),
    "test_parity.py::test_pipelines": ("deep_tied-pp2-dp2",),
    "test_parity.py::test_tied_embeddings": ("0", "2"),
    "test_parity.py::test_lora_equals_peft": ("{'pp': 2}-none",),
    "test_resume.py::test_goes_on_bit_for_bit": ("zero2-dp2",),
    "test_resume.py::test_goes_on_with_another_layout": ("tp2-zero1-pp2-tp2", "zero0-dp2-zero1-dp1"),
    "test_resume.py::test_a_run_can_go_back_without_a_new_start": ("{'zero_stage': 3}",),
}
"""Cases that show in one layout more what quick ones show in others: `make soak` runs them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to soak what is repeated."""
    for item in items:
        test, _, case = item.nodeid.rpartition("/")[2].partition("[")
        if case.removesuffix("]") in REPEATED.get(test, ()):
            item.add_marker(pytest.mark.soak)


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
