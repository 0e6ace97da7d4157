"""What `toolkit export` makes of a checkpoint is what the run itself exported at that step, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from ranks.runs import in_warm_ranks
from ranks.test_faults import write_inputs
from toolkit.checkpoints.store import Store
from toolkit.errors import CheckpointError
from toolkit.exporting import export_checkpoint
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks


def trained(folder: Path, **choices: Any) -> RunFolder:
    """A run that has ended, with checkpoints of steps 2 and 4."""
    inputs = write_inputs(folder / "inputs")
    plan = toolkit.plan(inputs / "model", "2xcpu", seq_len=32, global_batch=8, **choices)
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl")},
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
        {"zero_stage": 1, "tp": 2, "precision": "fp32"},
        {"pp": 2, "method": "lora", "lora_rank": 4, "precision": "fp32"},
        {"zero_stage": 3, "method": "lora", "lora_rank": 4, "precision": "bf16"},
    ],
    ids=lambda choices: "-".join(f"{name}={value}" for name, value in choices.items()),
)
def test_a_checkpoint_is_exported_as_the_run_was(tmp_path: Path, choices: dict[str, Any]) -> None:
    run = trained(tmp_path, **choices)
    assert export_checkpoint(run.path, tmp_path / "again") == 4
    assert_same_files(tmp_path / "again", run.export)
    assert export_checkpoint(run.path, tmp_path / "earlier", step=2) == 2
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
