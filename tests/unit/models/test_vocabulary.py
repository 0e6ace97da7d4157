"""New tokens: their ids, their rows, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import toolkit
from ranks.tiny import write_model
from toolkit.errors import CheckpointError, SpecError
from toolkit.models.build import build_model
from toolkit.models.pretrained import load_pretrained, load_tokenizer
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import grown
from toolkit.specs.workload import Workload

TOKENS = ("<|im_start|>", "<|im_end|>")


def work(**more: object) -> Workload:
    return Workload.parse({"seq_len": 32, "global_batch": 4, "precision": "fp32", **more}, source="test")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_new_rows_are_the_mean_of_the_old_ones(tmp_path: Path, tied: bool, precision: str) -> None:
    folder = write_model(tmp_path / "model", tied=tied)
    spec = grown(ModelSpec.resolve(folder), work(new_tokens=TOKENS, vocab_multiple=8))
    assert (spec.vocab_size, spec.added_rows) == (104, 8)
    model = load_pretrained(str(folder), spec, precision=precision, new_tokens=TOKENS).load()  # type: ignore[arg-type]
    base = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight")[: 2 - tied]:
        weight, old = model.state_dict()[name], base[name].to(model.dtype)
        assert torch.equal(weight[:96], old)
        assert torch.equal(weight[96:], old.double().mean(0).to(model.dtype).expand(8, -1))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_rows_without_a_token_are_made_anew(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", vocab_size=100)
    spec = grown(ModelSpec.resolve(folder), work(new_tokens=TOKENS))
    weight = load_pretrained(str(folder), spec, precision="fp32", new_tokens=TOKENS).load().lm_head.weight
    old = load_file(folder / "model.safetensors")["lm_head.weight"][:96]
    assert torch.equal(weight[96:], old.double().mean(0).float().expand(6, -1))


def test_a_grown_model_does_not_grow_again(tmp_path: Path) -> None:
    asked = work(new_tokens=TOKENS)
    once = grown(ModelSpec.resolve(write_model(tmp_path / "model")), asked)
    assert grown(once, asked) == once
    assert grown(once, work()).vocab_size == 96


def test_a_token_that_is_there_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    spec = grown(ModelSpec.resolve(folder), work(new_tokens=("w7", "<|new|>")))
    with pytest.raises(
        SpecError, match=r"^new_tokens: w7 is token 7 of the tokenizer already; leave out what is there$"
    ):
        load_tokenizer(str(folder), spec, ("w7", "<|new|>"))


def test_weights_of_the_grown_size_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.zeros(98, 48)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    spec = grown(ModelSpec.resolve(folder), work(new_tokens=TOKENS))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is \(98, 48\), needs \(96, 48\)"):
        load_pretrained(str(folder), spec, precision="fp32", new_tokens=TOKENS)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (
            {"method": "lora"},
            "lm_head.weight and model.embed_tokens.weight would never be trained; set modules_to_save",
        ),
        ({"method": "lora", "modules_to_save": ["lm_head"]}, "model.embed_tokens.weight would never be trained"),
        ({"freeze": ["*embed*"]}, "model.embed_tokens.weight would never be trained; freeze less"),
    ],
)
def test_rows_that_would_never_train_are_refused_when_planned_and_when_run(
    tmp_path: Path, choices: dict[str, object], told: str
) -> None:
    folder = write_model(tmp_path / "model")
    with pytest.raises(SpecError, match=told):
        toolkit.plan(folder, "2xcpu", seq_len=32, global_batch=4, new_tokens=TOKENS, **choices)
    asked = work(new_tokens=TOKENS, **choices)
    made = toolkit.plan(folder, "2xcpu", seq_len=32, global_batch=4)
    made = made.model_copy(update={"workload": asked, "model": grown(made.model, asked)})
    with pytest.raises(SpecError, match=told):
        build_model(made, Recipe(model=str(folder), workload=asked))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"new_tokens": ["<a>", "<a>"]}, "'<a>' is there twice"),
        ({"new_tokens": [" <a>"]}, "is empty, or has blanks around it"),
        ({"vocab_multiple": 8}, "there are none; leave it out"),
    ],
)
def test_tokens_that_are_none(given: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        work(**given)
