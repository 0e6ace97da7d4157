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

from toolkit.checkpoints.export import check_export, export
from toolkit.errors import CheckpointError
from toolkit.models.pretrained import load_tokenizer

NAME = "model.layers.1.mlp.up_proj.weight"


class Holder:
    """An engine as far as `export` knows it."""

    def __init__(self, weights: list[tuple[str, torch.Tensor]], rank: int = 0) -> None:
        self.rank = rank
        self.taken = 0
        self._weights = weights

    def full_state(self) -> Any:
        for name, tensor in self._weights:
            self.taken += 1
            if self.rank == 0:
                yield name, tensor


def write(trained: Any, target: Path, *, rank: int = 0) -> Holder:
    engine: Any = Holder(trained.weights, rank)
    tokenizer = load_tokenizer(str(trained.base), trained.plan.model)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    export(engine, target, plan=trained.plan, recipe=trained.recipe, tokenizer=tokenizer, stop_token_ids=[2, 9])
    return engine


def change(trained: Any, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Replace the tensor NAME, or leave it out."""
    changed = [(name, edit(tensor) if name == NAME else tensor) for name, tensor in trained.weights]
    trained.weights = [(name, tensor) for name, tensor in changed if tensor is not None]


def test_plain_transformers_loads_it(trained: Any, tmp_path: Path) -> None:
    write(trained, tmp_path / "final")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not any(report.values())
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.weights)
    assert GenerationConfig.from_pretrained(tmp_path / "final").eos_token_id == [2, 9]
    assert AutoTokenizer.from_pretrained(tmp_path / "final").chat_template == "{{ messages[0]['content'] }}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]


def test_dtype_is_the_weights_own(trained: Any, tmp_path: Path) -> None:
    trained.weights = [(name, tensor.bfloat16()) for name, tensor in trained.weights]
    write(trained, tmp_path / "final")
    assert json.loads((tmp_path / "final" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "final").dtype == torch.bfloat16


def test_several_shards_have_an_index(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 40_000
    monkeypatch.setattr("toolkit.checkpoints.export._SHARD_BYTES", limit)
    write(trained, tmp_path / "final")
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
    engine = write(trained, tmp_path / "final", rank=1)
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
    change(trained, edit)
    with pytest.raises(CheckpointError) as failure:
        write(trained, tmp_path / "final")
    assert f"damaged export: {told}; " in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_too_many_is_named(trained: Any, tmp_path: Path) -> None:
    trained.weights.append(("model.layers.2.mlp.up_proj.weight", torch.zeros(3)))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.up_proj\.weight is not part of the model"):
        write(trained, tmp_path / "final")


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
        write(trained, tmp_path / "file" / "final")


def test_a_full_disk_leaves_nothing(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolkit.checkpoints.export.save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*No space left on device\)"):
        write(trained, tmp_path / "final")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_replaced(trained: Any, tmp_path: Path) -> None:
    (tmp_path / ".final.partial").mkdir()
    (tmp_path / ".final.partial" / "shard-9.safetensors").write_text("half")
    write(trained, tmp_path / "final")
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]
    assert not list((tmp_path / "final").glob("shard-*"))
