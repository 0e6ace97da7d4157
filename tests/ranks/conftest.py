"""Models that the tests on several ranks share; random weights, made once."""

from pathlib import Path

import pytest

from ranks.tiny import write_model

REPEATED = {
    "test_adapters.py::test_ends_trained_beside_adapters_equal_peft": ("untied-{'zero_stage': 3}",),
    "test_adapters.py::test_variants_equal_peft": ("dora-{'zero_stage': 3}",),
    "test_after_training.py::test_equals_one_process": (
        "lora-pp2",
        "lora-zero2",
        "mcore-lora-tp2-pp2",
        "mcore-pp2-vpp2",
        "mcore-tied-tp2-cp2",
        "pp2-dp2",
        "tied-tp2-zero3",
        "tied-zero3",
        "tp2-zero1",
        "windowed-pp2",
        "zero0",
        "zero1",
        "zero2",
        "zero3",
    ),
    "test_bad_steps.py::test_a_bad_step_changes_nothing": (
        "pp=2-precision=bf16",
        "zero_stage=0-precision=bf16",
        "zero_stage=1",
        "zero_stage=1-tp=2",
        "zero_stage=2",
        "zero_stage=2-offload=optimizer",
        "zero_stage=2-sp=2",
        "zero_stage=3-precision=bf16",
    ),
    "test_bad_steps.py::test_copies_that_came_apart_are_told": ("zero_stage=2-precision=bf16",),
    "test_calibrate.py::test_ctrl_c_and_sigterm_end_all_and_leave_nothing": ("15",),
    "test_chunked_loss.py::test_equals_one_process": ("pp2-tp2", "sp2-zero2", "tp2-zero1", "zero0"),
    "test_clipping.py::test_equals_one_process": ("agc-tp2", "agc-zero1", "agc-zero3", "percentile-pp2", "zclip-zero2"),
    "test_communication.py::test_fp16_has_room_for_gradients_of_any_size": ("1e-07",),
    "test_communication.py::test_goes_on_bit_for_bit": ("topk", "topk-back"),
    "test_communication.py::test_halves_are_the_mean_rounded": ("bf16",),
    "test_freezing.py::test_it_goes_on_bit_for_bit": ("{'pp': 2}",),
    "test_freezing.py::test_the_rest_trains_as_in_one_process": (
        "deep-{'engine': 'mcore', 'tp': 2}",
        "deep-{'tp': 2, 'zero_stage': 1}",
        "deep-{'zero_stage': 3}",
        "deep_tied-{'pp': 2}",
    ),
    "test_loading.py::test_a_rank_grows_by_its_share": (
        "{'pp': 2, 'stages': (6, 6)}-2",
        "{'zero_stage': 3, 'tp': 2, 'cluster': '4xcpu'}-4",
    ),
    "test_low_precision.py::test_an_overflow_leaves_no_trace": ("{'zero_stage': 0}", "{'zero_stage': 2}"),
    "test_low_precision.py::test_divided_replicas_equal_one_process": (
        "bf16-engine-tp",
        "bf16-pp-tp-cluster",
        "bf16-sp-zero_stage1",
        "bf16-tp-zero_stage2",
        "fp16-engine-tp",
        "fp16-pp-tp-cluster",
        "fp16-sp-zero_stage1",
    ),
    "test_low_precision.py::test_equals_one_process": ("bf16-2", "fp16-2"),
    "test_low_precision.py::test_lora_equals_peft": ("3",),
    "test_megatron_parity.py::test_adapters": ("tp2", "tp2-sequence"),
    "test_megatron_parity.py::test_equals_one_process": (
        "cp2",
        "one",
        "pp2",
        "pp2-cp2",
        "pp4",
        "tp2",
        "tp2-dp2",
        "tp2-pp2",
        "tp2-sequence",
    ),
    "test_megatron_parity.py::test_recomputed_activations": ("tp2-sequence-full", "tp2-sequence-selective"),
    "test_megatron_parity.py::test_tied_heads_odd_vocabularies_and_stretched_rotations": (
        "odd-pp2-cp2",
        "odd-tp2-dp2",
        "stretched-cp2",
        "stretched-tp2-sequence",
    ),
    "test_megatron_parity.py::test_weights_go_in_and_out_bit_for_bit_and_give_the_same_logits": (
        "even-cp2",
        "stretched-pp2-cp2",
    ),
    "test_megatron_resume.py::test_goes_on_bit_for_bit": ("tp2-dp2-{}",),
    "test_megatron_resume.py::test_tp2_goes_on_elsewhere": ("one", "pp2"),
    "test_mixed.py::test_bf16_alone_goes_on_bit_for_bit": ("{'zero_stage': 2}",),
    "test_new_tokens.py::test_they_train_as_in_one_process": ("deep-{'tp': 2, 'zero_stage': 1}",),
    "test_noise.py::test_equals_one_process": ("pp2-tp2", "sp2", "zero3-recomputed"),
    "test_noise.py::test_goes_on_bit_for_bit": ("{'zero_stage': 2}",),
    "test_one_recipe.py::test_another_plan_for_the_same_recipe": ("trained-mcore-pp2", "trained-pp2", "trained-sp2"),
    "test_optimizers.py::test_groups_equal_one_process": (
        "deep-{'pp': 2}",
        "deep-{'zero_stage': 1, 'tp': 2}",
        "deep-{'zero_stage': 1}",
        "deep-{'zero_stage': 2, 'offload': 'optimizer'}",
        "deep-{'zero_stage': 2}",
        "deep-{'zero_stage': 3}",
    ),
    "test_optimizers.py::test_groups_go_on_bit_for_bit": ("{'pp': 2}", "{'zero_stage': 3, 'precision': 'bf16'}"),
    "test_other_optimizers.py::test_departs_no_further_than_one_process_does": ("adamw_8bit-{'zero_stage': 2}",),
    "test_other_optimizers.py::test_does_what_its_library_does": (
        "adafactor-{'zero_stage': 2, 'precision': 'bf16'}",
        "adafactor-{'zero_stage': 2}",
        "lion-{'zero_stage': 2}",
        "lion-{'zero_stage': 3}",
        "muon-{'pp': 2}",
        "sgd-{'zero_stage': 2}",
        "soap-{'zero_stage': 2}",
    ),
    "test_other_optimizers.py::test_goes_on_bit_for_bit": (
        "adafactor-{'zero_stage': 2}",
        "muon-{'pp': 2}",
        "soap-{'zero_stage': 0, 'precision': 'bf16'}",
    ),
    "test_other_optimizers.py::test_goes_on_with_another_layout": (
        "adafactor-{'zero_stage': 2, 'cluster': '4xcpu', 'micro_batch': 1}-{'zero_stage': 1}",
        "sgd-{'zero_stage': 1, 'tp': 2, 'micro_batch': 4}-{'zero_stage': 3}",
    ),
    "test_packed_rows.py::test_an_attention_that_mixes_documents_is_refused": (
        "choices1-transformers.masking_utils.find_packed_sequence_indices",
    ),
    "test_packed_rows.py::test_packed_rows_are_their_documents": ("mcore-tp2-cp2", "pp2", "pp2-tp2", "tp2", "zero2"),
    "test_parity.py::test_a_window_of_tokens_is_kept": ("{'pp': 2}", "{'tp': 2, 'zero_stage': 1}"),
    "test_parity.py::test_activation_checkpointing": ("0", "3"),
    "test_parity.py::test_divided_and_recomputed": ("pp2-tp2", "sp2-zero0"),
    "test_parity.py::test_divided_replicas": (
        "tied-sp2-dp2-zero3",
        "tied-sp2-zero1",
        "tied-sp2-zero2",
        "tied-sp2-zero3",
        "tied-tp2-dp2-zero2",
        "tied-tp2-zero2",
        "tied-tp2-zero3",
        "untied-sp2-zero3",
        "untied-tp2-zero3",
    ),
    "test_parity.py::test_four_micro_batches_are_one_of_four_times_the_size": ("3",),
    "test_parity.py::test_lora_equals_peft": (
        "{'pp': 2}-none",
        "{'zero_stage': 2, 'sp': 2}-full",
        "{'zero_stage': 2}-none",
        "{'zero_stage': 3}-full",
    ),
    "test_parity.py::test_offload": ("{'offload': 'optimizer', 'pp': 2}", "{'zero_stage': 2, 'offload': 'optimizer'}"),
    "test_parity.py::test_pipelines": (
        "deep-pp2",
        "deep-pp2-tp2",
        "deep_tied-pp2",
        "deep_tied-pp2-dp2",
        "deep_tied-pp2-tp2-dp2",
    ),
    "test_parity.py::test_ranks_of_one_replica_that_see_other_rows_are_noticed": ("choices0-2",),
    "test_parity.py::test_tied_embeddings": ("0", "1", "2", "3"),
    "test_parity.py::test_zero": ("1",),
    "test_recomputed_layers.py::test_nothing_changes": ("pp2",),
    "test_recomputed_layers.py::test_nothing_changes_if_products_are_kept": ("tp2",),
    "test_resume.py::test_a_run_can_go_back_without_a_new_start": ("{'pp': 2}", "{'zero_stage': 3}"),
    "test_resume.py::test_formats_methods_and_offload_go_on_bit_for_bit": (
        "zero_stage=1-precision=fp16",
        "zero_stage=2-offload=optimizer",
    ),
    "test_resume.py::test_goes_on_bit_for_bit": ("tp2-zero1", "zero0-dp2", "zero2-dp2"),
    "test_resume.py::test_goes_on_with_another_layout": (
        "pp2-tp2-zero1-dp2",
        "tp2-zero1-pp2-tp2",
        "zero0-dp2-zero1-dp1",
        "zero1-dp1-zero2-dp2",
    ),
    "test_saved_models.py::test_a_checkpoint_is_exported_as_the_run_was": (
        "zero_stage=2-freeze=('*layers.0.*', '*embed_tokens*')-precision=bf16",
        "zero_stage=3-method=lora-lora_rank=4-precision=bf16",
    ),
    "test_tiny_copy.py::test_a_copy_agrees": ("untied-2-{'zero_stage': 3, 'precision': 'bf16', 'method': 'lora'}",),
    "test_trained_llama.py::test_trains_as_one_process_would": ("bf16-2-gsm8k-in_warm_ranks",),
    "test_watching_schedules.py::test_rates_are_those_of_one_process": ("pp2-relative_change", "zero2-plateau"),
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
