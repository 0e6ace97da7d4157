"""An export is a folder that plain transformers loads, or an error that names the tensor and no folder at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from toolkit.checkpoints.check import check_export
from toolkit.errors import CheckpointError

NAME = "model.layers.1.mlp.up_proj.weight"


def test_plain_transformers_loads_it(trained: Any, tmp_path: Path) -> None:
    trained.export_to(tmp_path)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not any(report.values())
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.weights)
    assert GenerationConfig.from_pretrained(tmp_path / "final").eos_token_id == [2, 9]
    assert AutoTokenizer.from_pretrained(tmp_path / "final").chat_template == "{{ messages[0]['content'] }}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]


def test_dtype_is_the_weights_own(trained: Any, tmp_path: Path) -> None:
    trained.weights = [(name, tensor.bfloat16()) for name, tensor in trained.weights]
    trained.export_to(tmp_path)
    assert json.loads((tmp_path / "final" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "final").dtype == torch.bfloat16


def test_several_shards_have_an_index(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 40_000
    monkeypatch.setattr("toolkit.checkpoints.export._SHARD_BYTES", limit)
    trained.export_to(tmp_path)
    shards = sorted((tmp_path / "final").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(sum(tensor.nbytes for tensor in load_file(shard).values()) <= limit for shard in shards)
    index = json.loads((tmp_path / "final" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for _, tensor in trained.weights)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "final" / file, framework="pt") as tensors:
            assert name in tensors.keys()  # noqa: SIM118 (safe_open is no mapping)
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "final").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.weights)


def test_other_ranks_take_part_and_write_nothing(trained: Any, tmp_path: Path) -> None:
    engine = trained.export_to(tmp_path, rank=1)
    assert engine.taken == len(trained.weights)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda tensor: None, f"{NAME} is missing"),
        (lambda tensor: torch.zeros(0), f"{NAME} has shape (0,), needs (80, 48)"),
        (lambda tensor: tensor[1:], f"{NAME} has shape (79, 48), needs (80, 48)"),
        (lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("nan")), f"{NAME} holds NaN or Inf"),
        (lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("inf")), f"{NAME} holds NaN or Inf"),
    ],
    ids=["missing", "empty", "misshapen", "nan", "inf"],
)
def test_damaged_weights_are_named_and_nothing_appears(
    trained: Any, tmp_path: Path, edit: Callable[[torch.Tensor], torch.Tensor | None], told: str
) -> None:
    trained.change(NAME, edit)
    with pytest.raises(CheckpointError) as failure:
        trained.export_to(tmp_path)
    assert f"damaged export: {told}; " in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_too_many_is_named(trained: Any, tmp_path: Path) -> None:
    trained.weights.append(("model.layers.2.mlp.up_proj.weight", torch.zeros(3)))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.up_proj\.weight is not part of the model"):
        trained.export_to(tmp_path)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    save_file({"one": torch.zeros(2)}, tmp_path / "model.safetensors")
    expected: dict[str, tuple[int, ...]] = {f"w{number}": (2,) for number in range(9)}
    with pytest.raises(CheckpointError) as failure:
        check_export(tmp_path, expected)
    text = str(failure.value)
    assert "w0 is missing; w1 is missing; w2 is missing; w3 is missing; w4 is missing (and 5 more)" in text


def test_a_folder_that_cannot_be_written(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"final: cannot be written \(.+\); free disk space"):
        trained.export_to(tmp_path / "file")


def test_a_full_disk_leaves_nothing(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolkit.checkpoints.export.save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*No space left on device\)"):
        trained.export_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_replaced(trained: Any, tmp_path: Path) -> None:
    (tmp_path / ".final.partial").mkdir()
    (tmp_path / ".final.partial" / "shard-9.safetensors").write_text("half")
    trained.export_to(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]
    assert not list((tmp_path / "final").glob("shard-*"))
