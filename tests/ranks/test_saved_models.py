"""What `toolkit export` makes of a checkpoint is what the run itself exported at that step, bit for bit."""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import toolkit
from ranks.runs import in_warm_ranks
from ranks.test_faults import write_inputs
from toolkit.checkpoints.store import Store
from toolkit.errors import CheckpointError
from toolkit.exporting import export_checkpoint
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks
ENDS = {"modules_to_save": ("embed_tokens",)}


def trained(folder: Path, *, lora: Mapping[str, Any] | None = None, **choices: Any) -> RunFolder:
    """A run that has ended, with checkpoints of steps 2 and 4."""
    inputs = write_inputs(folder / "inputs")
    plan = toolkit.plan(inputs / "model", "2xcpu", seq_len=32, global_batch=8, **choices)
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "template": "chatml" if "new_tokens" in choices else None},
        "lora": dict(lora or {}),
        "max_steps": 4,
        "checkpoint": {"every_steps": 2},
        "trackers": [],
    }
    run = toolkit.emit(plan, folder / "run", toolkit.Recipe.parse(recipe, source="test"))
    in_warm_ranks(run)
    return RunFolder(run)


def assert_same_files(one: Path, other: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 3, "precision": "bf16"},
        {"zero_stage": 1, "tp": 2, "precision": "fp32", "new_tokens": ("<|im_start|>", "<|im_end|>")},
        {"pp": 2, "method": "lora", "lora_rank": 4, "precision": "fp32", "lora": {"dora": True}, **ENDS},
        {"zero_stage": 3, "method": "lora", "lora_rank": 4, "precision": "bf16"},
        {"zero_stage": 2, "freeze": ("*layers.0.*", "*embed_tokens*"), "precision": "bf16"},
    ],
    ids=lambda choices: "-".join(f"{name}={value}" for name, value in choices.items()),
)
def test_a_checkpoint_is_exported_as_the_run_was(tmp_path: Path, choices: dict[str, Any]) -> None:
    run = trained(tmp_path, **choices)
    assert export_checkpoint(run.path, tmp_path / "again") == 4
    assert_same_files(tmp_path / "again", run.export)
    assert export_checkpoint(run.path, tmp_path / "earlier", step=2) == 2
    if "freeze" in choices:
        base, left = (load_file(folder / "model.safetensors") for folder in (tmp_path / "inputs/model", run.export))
        kept = {name for name, weight in left.items() if torch.equal(weight, base[name].to(weight.dtype))}
        frozen = {name for name in base if any(fnmatchcase(name, pattern) for pattern in choices["freeze"])}
        assert frozen <= kept
        # In bf16 the ones of a norm outlive so few steps.
        assert all("norm" in name for name in kept - frozen)
    if "new_tokens" in choices:
        tokenizer, model = (kind.from_pretrained(run.export) for kind in (AutoTokenizer, AutoModelForCausalLM))
        assert model.config.vocab_size == len(tokenizer) == len(model.lm_head.weight)
        assert model.generation_config.eos_token_id[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "earlier", run.export)]
    assert weights[0] != weights[1]
    if "method" in choices:
        export_checkpoint(run.path, tmp_path / "adapter", adapter=True)
        assert_same_files(tmp_path / "adapter", run.adapter)
        other = tmp_path / "inputs" / "model" / "model.safetensors"
        content = bytearray(other.read_bytes())
        content[63 * len(content) // 64] ^= 1
        other.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"has other weights .+ were trained beside"):
            export_checkpoint(run.path, tmp_path / "wrong")
        assert not (tmp_path / "wrong").exists()
        return
    with pytest.raises(CheckpointError, match="there are no adapters; leave --adapter out"):
        export_checkpoint(run.path, tmp_path / "adapter", adapter=True)
    with pytest.raises(CheckpointError, match="is there already; give another folder"):
        export_checkpoint(run.path, tmp_path / "again")
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are 2, 4"):
        export_checkpoint(run.path, tmp_path / "third", step=3)
    newest = Store(run.checkpoints).folder(4)
    manifest = json.loads((newest / "manifest.json").read_text())
    damaged = newest / next(iter(manifest["files"]))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered or damaged"):
        export_checkpoint(run.path, tmp_path / "damaged")
