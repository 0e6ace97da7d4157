"""DoRA, and embedding and head that train beside adapters: peft loads them, merged they are the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit.errors import CheckpointError
from toolkit.models.lora import peft_config

IDS = torch.arange(3, 19).view(2, 8)
BOTH = ("embed_tokens", "lm_head")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(("which", "ends"), [("base", BOTH), ("base", BOTH[1:]), ("tied_base", BOTH[:1])])
def test_peft_loads_them_and_the_merged_model_is_the_same(
    request: pytest.FixtureRequest, adapted_with_ends: Any, tmp_path: Path, which: str, ends: tuple[str, ...]
) -> None:
    base = request.getfixturevalue(which)
    model, run = adapted_with_ends(base, *ends)
    run.export_to(tmp_path)
    expected = logits(model)
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.05
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=2e-6)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("which", "ends"), [("base", BOTH), ("tied_base", BOTH[:1])])
def test_files_are_those_that_peft_writes(
    request: pytest.FixtureRequest, adapted_with_ends: Any, tmp_path: Path, which: str, ends: tuple[str, ...]
) -> None:
    base = request.getfixturevalue(which)
    _, run = adapted_with_ends(base, *ends)
    run.export_to(tmp_path)
    config = peft_config(run.recipe.lora, rank=4)
    config.modules_to_save, config.ensure_weight_tying = list(ends), which == "tied_base"
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "peft")
    ours, peft = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "peft"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in peft.items()}
    note = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (note["use_dora"], note["modules_to_save"]) == (True, sorted(ends))
    assert note["ensure_weight_tying"] == (which == "tied_base")


@pytest.mark.parametrize("part", ["embed_tokens.weight", "q_proj.lora_magnitude_vector.default.weight"])
@pytest.mark.parametrize(
    ("edit", "told"), [(lambda t: torch.zeros(0), r"has shape \(0,\)"), (lambda t: None, "is missing")]
)
def test_what_was_not_gathered_is_never_written(
    base: Path, adapted_with_ends: Any, tmp_path: Path, part: str, edit: Any, told: str
) -> None:
    _, run = adapted_with_ends(base, *BOTH)
    run.change(next(name for name, _ in run.weights if name.endswith(part)), edit)
    with pytest.raises(CheckpointError, match=rf"{part.partition('.default')[0].removesuffix('.weight')}\S* {told}"):
        run.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_new_tokens_are_in_config_tokenizer_and_weights(base: Path, adapted_with_ends: Any, tmp_path: Path) -> None:
    tokens = ("<|im_start|>", "<|im_end|>")
    model, run = adapted_with_ends(base, *BOTH, new_tokens=tokens, vocab_multiple=16)
    run.export_to(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    assert merged.config.vocab_size == len(merged.get_input_embeddings().weight) == 112
    assert tokenizer.convert_tokens_to_ids(list(tokens)) == [96, 97]
    assert tokenizer("w3<|im_end|>w4", add_special_tokens=False).input_ids == [3, 97, 4]
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)
    # peft cannot know of them: the base is grown first.
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(112, mean_resizing=False)
    loaded = PeftModel.from_pretrained(grown, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=2e-6)
