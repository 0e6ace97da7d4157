"""A model of a checkpoint's kind and of any small size, with random weights: what layouts are tried with."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from toolkit.models.config import load_config

VOCAB_SIZE = 128
_HIDDEN, _INTERMEDIATE = 64, 96
_SPREAD = 0.1
"""Standard deviation of the weights: with LLaMA's own 0.02 so small a model would guess, and faults would not show."""


def write_tiny(name: str, folder: Path, *, layers: int, shards: int) -> Path:
    """Write config.json and weights; equal on every host.

    Args:
        name: of the checkpoint whose kind it is: grouped heads, ties, biases, rotary embeddings, windows.
        folder: to be made.
        layers: decoder layers.
        shards: ways in which heads, matrices and vocabulary must be divisible.

    Raises:
        SpecError: as `load_config`.
    """
    config = load_config(name)
    config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = max(config.num_attention_heads // config.num_key_value_heads, 1)
    config.num_key_value_heads = shards if shards > 1 or queries > 1 else 2
    config.num_attention_heads = queries * config.num_key_value_heads
    config.num_hidden_layers, config.initializer_range = layers, _SPREAD
    config.hidden_size, config.intermediate_size, config.vocab_size = (
        math.lcm(shards, 8) * math.ceil(size / math.lcm(shards, 8)) for size in (_HIDDEN, _INTERMEDIATE, VOCAB_SIZE)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).float()
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {key: weight.contiguous() for key, weight in model.state_dict().items() if key not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
