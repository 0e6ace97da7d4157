"""A checkpoint is loaded whole or refused by the name of what is wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ranks.tiny import EOS, PAD, write_model
from toolkit.errors import CheckpointError
from toolkit.models.pretrained import count_parameters, load_pretrained, load_tokenizer
from toolkit.models.weights import WeightFiles
from toolkit.specs.model import ModelSpec


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "llama", num_hidden_layers=2)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "llama")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as failure:
        load_pretrained(str(folder), ModelSpec.resolve(folder), precision="fp32").load()
    return str(failure.value)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_dtype_and_weights(whole: Path, precision: str, dtype: torch.dtype) -> None:
    unloaded = load_pretrained(str(whole), ModelSpec.resolve(whole), precision=precision)  # type: ignore[arg-type]
    # Counted before anything is read, as a run does.
    assert count_parameters(unloaded.module) == (ModelSpec.resolve(whole).num_params,) * 2
    loaded = unloaded.load()
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    on_disk = load_file(whole / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], tensor.to(dtype)) for name, tensor in on_disk.items())
    assert not loaded.config.use_cache


def test_a_truncated_file(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    text = refusal(model)
    assert text.startswith(f"{path}: damaged (")
    assert text.endswith("fetch the file again")


def test_an_empty_file(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")
    assert "model.safetensors: damaged (" in refusal(model)


def test_no_weights_at_all(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert "weights cannot be loaded" in refusal(model)


def test_missing_keys_are_not_filled_with_random_numbers(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert "missing keys in its weights: model.layers.1.mlp.up_proj.weight and 1 more" in refusal(model)


def test_keys_too_many(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert "unexpected keys in its weights: model.layers.7.mlp.up_proj.weight;" in refusal(model)


def test_weights_of_another_shape(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = torch.zeros(90, 48)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert "mismatched keys in its weights: lm_head.weight is (90, 48), needs (96, 48);" in refusal(model)


def test_another_model_than_planned(whole: Path, tmp_path: Path) -> None:
    planned = ModelSpec.resolve(write_model(tmp_path / "other", num_hidden_layers=3))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\..+ is missing, planned .+; the plan is for .+other"):
        load_pretrained(str(whole), planned, precision="fp32")


def test_tokenizer(whole: Path) -> None:
    tokenizer = load_tokenizer(str(whole), ModelSpec.resolve(whole))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, EOS)


def test_no_tokenizer(model: Path) -> None:
    for path in model.glob("token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"llama: no usable tokenizer \(.+\); add the tokenizer files"):
        load_tokenizer(str(model), ModelSpec.resolve(model))


def without(model: Path, token: str) -> Path:
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings[token]
    path.write_text(json.dumps(settings))
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    return model


def test_a_missing_padding_token_is_eos(model: Path) -> None:
    tokenizer = load_tokenizer(str(without(model, "pad_token")), ModelSpec.resolve(model))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == EOS


def test_no_end_of_sequence_token(model: Path) -> None:
    with pytest.raises(CheckpointError, match="no end-of-sequence token; set `eos_token`"):
        load_tokenizer(str(without(model, "eos_token")), ModelSpec.resolve(model))


def test_more_tokens_than_embeddings(whole: Path) -> None:
    smaller = ModelSpec.resolve(whole).model_copy(update={"vocab_size": 8})
    with pytest.raises(CheckpointError, match=r"its tokenizer has token id \d+, the model 8 embeddings; remove"):
        load_tokenizer(str(whole), smaller)


def test_a_damaged_pickle(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert "pytorch_model.bin: weights cannot be loaded (" in refusal(model)


def test_code_in_a_pickle_is_never_run(model: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "marker"),)

    (model / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Payload()}, model / "pytorch_model.bin")
    assert "it asks for `posix mkdir`, which no tensor needs" in refusal(model)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_rows_and_dtypes_of_files(model: Path, kind: str) -> None:
    weights = load_file(model / "model.safetensors")
    if kind == "bin":
        (model / "model.safetensors").unlink()
        torch.save(weights, model / "pytorch_model.bin")
    files, name = WeightFiles(str(model)), "model.layers.1.mlp.up_proj.weight"
    assert set(files.dtypes.values()) == {"float32"}
    assert torch.equal(files.read(name, torch.float32, rows=range(3, 9)), weights[name][3:9])
    assert torch.equal(files.read(name, torch.bfloat16), weights[name].bfloat16())
    assert files.where(name).endswith(f".{kind}: {name}")
