"""The models of benchmarks/one_gpu_runs.py are those that a run would build, with weights out of nothing."""

from pathlib import Path
from typing import Literal

import pytest

from one_gpu.cases import TINY, Case, planned
from one_gpu.weights import random_model
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
