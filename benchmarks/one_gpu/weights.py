"""Random weights in the place of a checkpoint: the toolkit builds the model of a case as it builds that of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import LlamaConfig

from toolkit.models.build import build_model
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


class RandomWeights:
    """What `toolkit.models.weights.WeightFiles` is to a model, for a checkpoint that has only a config."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._shapes: Mapping[str, tuple[int, ...]] = {}

    def check(self, needed: Mapping[str, tuple[int, ...]], *, added_rows: int = 0) -> None:
        """Whatever the model needs is there."""
        self._shapes = needed

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A new tensor, drawn as transformers starts a LLaMA; on the device, as a CPU draws 8B for a minute."""
        weight = torch.ones(self._shapes[name], dtype=dtype, device=self._device)
        return weight if weight.ndim == 1 else weight.normal_(std=0.02)


def random_model(plan: Plan, recipe: Recipe, folder: Path) -> UnloadedModel:
    """What `build_model` returns for the plan's model; its config.json is written to `folder`, which must exist."""
    _hf_config(plan.model).save_pretrained(folder)
    device = "cpu" if plan.cluster.device.kind == "cpu" else "cuda"
    with mock.patch("toolkit.models.pretrained.WeightFiles", return_value=RandomWeights(device)):
        return build_model(plan, recipe.model_copy(update={"model": str(folder)}))


def _hf_config(spec: ModelSpec) -> LlamaConfig:
    scaling: dict[str, Any] = {} if spec.rope_scaling is None else spec.rope_scaling.model_dump(exclude_none=True)
    return LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        tie_word_embeddings=spec.tied_embeddings,
        max_position_embeddings=spec.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta} | scaling,
    )
