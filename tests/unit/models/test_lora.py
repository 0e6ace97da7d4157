"""Adapters: which layers get them, what is left to train, and what the planner counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import toolkit
from ranks.settings import LORA_TARGETS
from ranks.tiny import write_model
from toolkit.errors import SpecError
from toolkit.models.build import build_model
from toolkit.models.lora import add_lora
from toolkit.models.pretrained import checkpoint_activations, count_parameters
from toolkit.specs.lora import LoraConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("lora") / "llama", num_hidden_layers=2)


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def loss_of(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 19).view(2, 8)
    return model.train()(input_ids=ids, labels=ids).loss


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("q_proj", "v_proj")])
def test_only_adapters_train_and_as_many_as_planned(folder: Path, model: Any, targets: tuple[str, ...]) -> None:
    spec = ModelSpec.resolve(folder)
    adapted = add_lora(model, LoraConfig(targets=targets), rank=4, checkpointed=False)
    trainable, total = count_parameters(adapted)
    assert trainable == spec.num_trainable_params("lora", 4, targets=targets)
    assert total == spec.num_params + trainable
    adapted_layers = {name.split(".")[-4] for name, p in adapted.named_parameters() if p.requires_grad}
    assert adapted_layers == set(targets)


def test_an_unknown_target_names_those_that_exist(model: Any) -> None:
    with pytest.raises(SpecError) as failure:
        add_lora(model, LoraConfig(targets=("q_proj", "query_key_value", "wq")), rank=4, checkpointed=False)
    assert str(failure.value) == (
        "lora.targets: no layer named query_key_value, wq; this model has "
        "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    )


def test_a_tied_head_gets_no_adapter(model: Any) -> None:
    model.config.tie_word_embeddings = True
    with pytest.raises(SpecError, match="lm_head is the embedding's own matrix"):
        add_lora(model, LoraConfig(targets=("q_proj", "lm_head")), rank=4, checkpointed=False)


def test_recomputed_layers_give_the_adapters_their_gradients(folder: Path, model: Any) -> None:
    gradients = []
    for checkpointed in (False, True):
        fresh = AutoModelForCausalLM.from_pretrained(folder)
        if checkpointed:
            checkpoint_activations(fresh, adapters=True)
        torch.manual_seed(0)
        adapted = add_lora(fresh, LoraConfig(), rank=4, checkpointed=checkpointed)
        loss_of(adapted).backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    plain, recomputed = gradients
    assert all(gradient is not None and gradient.isfinite().all() for gradient in plain.values())
    assert any(gradient.abs().max() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_plan_decides(folder: Path, method: str, recompute: bool) -> None:
    plan = toolkit.plan(
        folder,
        "2xcpu",
        seq_len=32,
        global_batch=4,
        method=method,
        lora_rank=4,
        activation_checkpointing="full" if recompute else "none",
    )
    built = build_model(plan, Recipe(model=str(folder), workload=plan.workload)).module
    trainable, total = count_parameters(built)
    assert trainable == plan.model.num_trainable_params(plan.workload.method, 4)
    assert (trainable < total) == (method == "lora")
    recomputing = [getattr(module, "gradient_checkpointing", False) for module in built.modules()]
    assert any(recomputing) == recompute
