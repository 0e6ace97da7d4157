"""A small LLaMA on disk, its plan and its weights."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import toolkit
from ranks.tiny import write_model
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe

Weights = list[tuple[str, torch.Tensor]]


@dataclass
class Trained:
    """What `export` takes."""

    base: Path
    plan: Plan
    recipe: Recipe
    weights: Weights


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "llama", num_layers=2)


@pytest.fixture
def trained(base: Path) -> Trained:
    plan = toolkit.plan(base, "2xcpu", seq_len=32, global_batch=4)
    recipe = Recipe(model=str(base), workload=plan.workload)
    return Trained(base, plan, recipe, list(load_file(base / "model.safetensors").items()))
