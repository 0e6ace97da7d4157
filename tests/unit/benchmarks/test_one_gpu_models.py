"""The models of benchmarks/one_gpu_runs.py are those that a run would build, with weights out of nothing."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn.functional import cross_entropy

from one_gpu.cases import TINY, Case, planned
from one_gpu.chunked import ChunkedLossModel
from one_gpu.weights import random_model
from toolkit.engines.ds.loss import next_tokens
from toolkit.models.unloaded import UnloadedModel
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.recipe import Recipe

Method = Literal["full", "lora"]


def model_of(method: Method, folder: Path) -> UnloadedModel:
    plan = planned(Case(TINY.name, 0, 64, 2, method=method), ClusterSpec.resolve("1xcpu")).plan
    return random_model(plan, Recipe(model=TINY.name, workload=plan.workload), folder)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_weight_is_drawn(method: Method, tmp_path: Path) -> None:
    model = model_of(method, tmp_path)
    model.load()
    weights = dict(model.base.named_parameters())
    own = {name.replace(".base_layer", ""): weight for name, weight in weights.items() if ".lora_" not in name}
    assert {name: tuple(weight.shape) for name, weight in own.items()} == TINY.weight_shapes
    trained = sum(weight.numel() for weight in weights.values() if weight.requires_grad)
    assert trained == TINY.num_trainable_params(method, 16)
    for name, weight in own.items():
        assert weight.is_contiguous(), name  # a placeholder is one number, seen as many
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_chunked_loss_is_the_loss(method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("one_gpu.chunked.CHUNK_TOKENS", 24)
    model = model_of(method, tmp_path)
    base, plain = model.base, model.module
    model.module = ChunkedLossModel(plain)
    assert model.base is base  # the engine reads the parts of the same model
    model.load()
    batch: dict[str, Any] = {"input_ids": torch.randint(512, (2, 40)), "attention_mask": torch.ones(2, 40).long()}
    wanted = next_tokens(batch["input_ids"])
    expected = cross_entropy(plain(**batch).logits.flatten(0, 1), wanted.flatten(), reduction="sum")
    torch.testing.assert_close(model.module(**batch, labels=wanted), expected)
