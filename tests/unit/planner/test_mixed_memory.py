"""Bytes of autocast and of bf16 alone: states per parameter, what a layer keeps, rounded copies of the weights."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.planner.memory.activations import layer_bytes
from toolkit.planner.memory.buffers import rounded_weights
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

TOKENS, LAYERS = 192, 4
CONFIG = LlamaConfig(
    vocab_size=160,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=LAYERS,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=512,
    use_cache=False,
)


def setup(mixed: str, stage: int, precision: str = "bf16") -> Setup:
    model = ModelSpec.from_config(CONFIG.to_dict(), name="small")
    strategy = Strategy.model_validate({"zero_stage": stage, "micro_batch": 1, "grad_accum": 1, "layout": {"dp": 2}})
    work = Workload.model_validate({"seq_len": TOKENS, "global_batch": 2, "precision": precision, "mixed": mixed})
    return setup_of(model, ClusterSpec.resolve("2xcpu"), workload=work, strategy=strategy)


@pytest.mark.parametrize(
    ("mixed", "stage", "weight", "grad", "optimizer"),
    [
        ("master", 2, 2, 2, 12),
        ("autocast", 0, 4, 4, 8),
        ("autocast", 2, 4, 4, 12),
        ("autocast", 3, 4, 4, 8),
        ("none", 2, 2, 2, 6),
        ("none", 3, 2, 2, 4),
    ],
)
def test_bytes_per_parameter(mixed: str, stage: int, weight: float, grad: float, optimizer: float) -> None:
    states = setup(mixed, stage).states
    assert (states.weight, states.grad, states.optimizer) == (weight, grad, optimizer)


def test_what_autograd_saves_within_autocast() -> None:
    """Counted in a forward pass: a layer keeps as much more than in bf16, and a copy of every linear weight."""
    within, rounded = _saved("autocast"), _saved("bf16")
    # What lies outside of the layers goes out: the same with half of them.
    by_layers = [
        run["tokens"] - _saved(mode, LAYERS // 2)["tokens"] for run, mode in ((within, "autocast"), (rounded, "bf16"))
    ]
    planned = layer_bytes(setup("autocast", 2)) - layer_bytes(setup("master", 2))
    assert by_layers[0] - by_layers[1] == LAYERS // 2 * planned
    assert within["weights"] == pytest.approx(2 * rounded_weights(setup("autocast", 2), 0), rel=0.002)
    assert rounded["weights"] == rounded_weights(setup("master", 2), 0) == rounded_weights(setup("autocast", 3), 0) == 0


def _saved(mode: str, layers: int = LAYERS) -> dict[str, float]:
    """Bytes that a forward pass saves: with a dimension of tokens, and without."""
    model: Any = LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": layers}))
    if mode == "bf16":
        model = model.bfloat16()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, tuple[str, int]] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = ("tokens" if TOKENS in tensor.shape else "weights", storage.nbytes())
            alive.append(tensor)
        return tensor

    ids = torch.randint(0, 160, (1, TOKENS))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"),
    ):
        model(input_ids=ids)
    return {what: sum(size for kind, size in seen.values() if kind == what) for what in ("tokens", "weights")}
