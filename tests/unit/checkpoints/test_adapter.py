"""The adapters of a run are a folder that peft itself loads, or an error that names the tensor and nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from toolkit.checkpoints.adapter import adapter_shapes
from toolkit.errors import CheckpointError
from toolkit.models.build import build_model
from toolkit.specs.lora import LoraConfig

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
A, B = f"{LAYER}.lora_A.default.weight", f"{LAYER}.lora_B.default.weight"


def test_peft_loads_it_and_merges_it(adapted: Any, adapted_model: Any, tmp_path: Path) -> None:
    engine = adapted.export_to(tmp_path)
    assert engine.taken == len(adapted.weights)  # one pass for both folders
    assert {entry.name for entry in tmp_path.iterdir()} == {"final", "adapter"}
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(adapted.base), tmp_path / "adapter")
    ids = torch.arange(3, 19).view(2, 8)
    torch.testing.assert_close(loaded(input_ids=ids).logits, adapted_model(input_ids=ids).logits, rtol=0, atol=1e-6)
    merged, final = loaded.merge_and_unload(), AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    for name, weight in final.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, rtol=1e-6, atol=1e-7)


def test_files_are_those_that_peft_writes(adapted: Any, tmp_path: Path) -> None:
    adapted.export_to(tmp_path)
    # The model of the run, not that of the weights: what peft notes of it is part of the file.
    model = build_model(adapted.plan, adapted.recipe).load()
    model.load_state_dict(dict(adapted.weights))
    model.save_pretrained(tmp_path / "peft")
    ours, peft = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "peft"))
    assert ours.keys() == peft.keys()
    assert all(torch.equal(tensor, peft[name]) for name, tensor in ours.items())
    config, expected = (
        json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("adapter", "peft")
    )
    assert config.pop("target_modules") == sorted(expected.pop("target_modules"))
    assert config == expected
    assert config["base_model_name_or_path"] == str(adapted.base)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 12, 0.1)
    assert config["task_type"] == "CAUSAL_LM"
    weights, note = (tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    assert weights.stat().st_mode == note.stat().st_mode


def test_dtype_is_the_adapters_own(adapted: Any, tmp_path: Path) -> None:
    adapted.weights = [(name, tensor.bfloat16()) for name, tensor in adapted.weights]
    adapted.export_to(tmp_path)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_without_adapters_there_is_no_folder(trained: Any, tmp_path: Path) -> None:
    trained.export_to(tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_other_ranks_write_nothing(adapted: Any, tmp_path: Path) -> None:
    assert adapted.export_to(tmp_path, rank=1).taken == len(adapted.weights)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        (A, lambda tensor: None, f"{LAYER}.lora_A.weight is missing"),
        (B, lambda tensor: None, f"{LAYER}.lora_B.weight is missing"),
        (A, lambda tensor: torch.zeros(0), f"{LAYER}.lora_A.weight has shape (0,), needs (4, 48)"),
        (B, lambda tensor: torch.zeros(0), f"{LAYER}.lora_B.weight has shape (0,), needs (48, 4)"),
        (B, lambda tensor: tensor[:, 1:], f"{LAYER}.lora_B.weight has shape (48, 3), needs (48, 4)"),
        (A, lambda tensor: tensor * float("nan"), f"{LAYER}.lora_A.weight holds NaN or Inf"),
        (B, lambda tensor: tensor + float("inf"), f"{LAYER}.lora_B.weight holds NaN or Inf"),
    ],
    ids=["A missing", "B missing", "A empty", "B empty", "misshapen", "nan", "inf"],
)
def test_damaged_adapters_are_named_and_nothing_appears(
    adapted: Any, tmp_path: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor | None], told: str
) -> None:
    adapted.change(name, edit)
    with pytest.raises(CheckpointError) as failure:
        adapted.export_to(tmp_path)
    assert str(failure.value) == f"{tmp_path / 'adapter'}: damaged export: {told}; train or export again"
    assert list(tmp_path.iterdir()) == []


def test_a_layer_without_adapters_is_named(adapted: Any, tmp_path: Path) -> None:
    for name in (A, B):
        adapted.change(name, lambda tensor: None)
    with pytest.raises(
        CheckpointError, match=r"q_proj\.lora_A\.weight is missing; .*q_proj\.lora_B\.weight is missing; "
    ):
        adapted.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_too_many_is_named(adapted: Any, tmp_path: Path) -> None:
    adapted.weights.append((A.replace("q_proj", "v_proj"), torch.zeros(4, 48)))
    with pytest.raises(CheckpointError, match=r"v_proj\.lora_A\.weight is not part of the model"):
        adapted.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_base_leaves_no_adapters_either(adapted: Any, tmp_path: Path) -> None:
    adapted.change("base_model.model.model.norm.weight", lambda tensor: tensor * float("nan"))
    with pytest.raises(CheckpointError, match=r"final\.partial: damaged export: model\.norm\.weight holds NaN"):
        adapted.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolkit.checkpoints.adapter.save_file", full)
    with pytest.raises(CheckpointError, match=r"adapter: cannot be written \(.*No space left on device\)"):
        adapted.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_reached_the_disk_is_what_counts(adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_less(tensors: dict[str, torch.Tensor], *words: Any, **named: Any) -> None:
        save_file(dict(list(tensors.items())[1:]), *words, **named)

    monkeypatch.setattr("toolkit.checkpoints.adapter.save_file", one_less)
    with pytest.raises(CheckpointError, match=r"damaged export: .*lora_A\.weight is missing; train"):
        adapted.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shapes_of_grouped_attention_and_of_the_head() -> None:
    weights = {
        "model.embed_tokens.weight": (96, 48),
        "model.layers.0.self_attn.k_proj.weight": (24, 48),
        "model.layers.0.self_attn.k_proj.bias": (24,),
        "model.layers.0.mlp.down_proj.weight": (48, 80),
        "lm_head.weight": (96, 48),
    }
    assert adapter_shapes(weights, LoraConfig(targets=("k_proj", "lm_head")), rank=4) == {
        "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": (4, 48),
        "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight": (24, 4),
        "base_model.model.lm_head.lora_A.weight": (4, 48),
        "base_model.model.lm_head.lora_B.weight": (96, 4),
    }
