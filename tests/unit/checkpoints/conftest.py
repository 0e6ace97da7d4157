"""A small LLaMA on disk, its plan and its weights, plain and adapted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import toolkit
from ranks.tiny import write_model
from toolkit.checkpoints.export import Targets, export
from toolkit.models.build import build_model
from toolkit.models.lora import add_lora
from toolkit.models.pretrained import load_tokenizer
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.lora import LoraConfig
from toolkit.specs.recipe import Recipe

Weights = list[tuple[str, torch.Tensor]]
Edit = Callable[[torch.Tensor], torch.Tensor | None]

LORA = LoraConfig(alpha=12, dropout=0.1, targets=("q_proj", "k_proj", "down_proj"))


class Holder:
    """An engine as far as `export` knows it."""

    def __init__(self, weights: Weights, rank: int = 0) -> None:
        self.rank = rank
        self.taken = 0
        self._weights = weights

    def full_state(self) -> Any:
        for name, tensor in self._weights:
            self.taken += 1
            if self.rank == 0:
                yield name, tensor


@dataclass
class Trained:
    """What `export` takes."""

    base: Path
    plan: Plan
    recipe: Recipe
    weights: Weights

    def export_to(self, folder: Path, *, rank: int = 0) -> Holder:
        """Into a run folder; the engine that gave the weights."""
        engine: Any = Holder(self.weights, rank)
        tokenizer = load_tokenizer(str(self.base), self.plan.model, self.plan.workload.new_tokens)
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        run = RunFolder(folder)
        export(
            engine,
            Targets(run.export, run.adapter),
            plan=self.plan,
            recipe=self.recipe,
            tokenizer=tokenizer,
            stop_token_ids=[2, 9],
        )
        return engine

    def change(self, wanted: str, edit: Edit) -> None:
        """Replace a tensor, or leave it out."""
        changed = [(name, edit(tensor) if name == wanted else tensor) for name, tensor in self.weights]
        self.weights = [(name, tensor) for name, tensor in changed if tensor is not None]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "llama", num_hidden_layers=2)


@pytest.fixture
def trained(base: Path) -> Trained:
    plan = toolkit.plan(base, "2xcpu", seq_len=32, global_batch=4)
    recipe = Recipe(model=str(base), workload=plan.workload)
    return Trained(base, plan, recipe, list(load_file(base / "model.safetensors").items()))


@pytest.fixture
def adapted_model(base: Path) -> Any:
    """peft's model of `adapted`, whose adapters have learnt something."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    model = add_lora(model, LORA, rank=4, checkpointed=False)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "tied", num_hidden_layers=2, tied=True)


@pytest.fixture(scope="session")
def adapted_with_ends() -> Callable[..., tuple[Any, Trained]]:
    """Makes peft's model of a run with DoRA and trained ends, all of which have learnt something, and its export."""
    return _adapted_with_ends


def _adapted_with_ends(base: Path, *ends: str, **choices: Any) -> tuple[Any, Trained]:
    lora = LoraConfig(alpha=12, targets=("q_proj", "down_proj"), dora=True)
    plan = toolkit.plan(
        base, "2xcpu", seq_len=32, global_batch=4, method="lora", lora_rank=4, modules_to_save=ends, **choices
    )
    recipe = Recipe(model=str(base), workload=plan.workload, lora=lora)
    torch.manual_seed(0)
    model = build_model(plan, recipe).load()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval(), Trained(base, plan, recipe, [(n, p.detach()) for n, p in model.named_parameters()])


@pytest.fixture
def adapted(base: Path, adapted_model: Any) -> Trained:
    plan = toolkit.plan(base, "2xcpu", seq_len=32, global_batch=4, method="lora", lora_rank=4)
    recipe = Recipe(model=str(base), workload=plan.workload, lora=LORA)
    return Trained(base, plan, recipe, [(n, p.detach()) for n, p in adapted_model.named_parameters()])
