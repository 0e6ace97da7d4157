"""What each key does: one value changed at a time, the rest as the file has it, the global batch the same."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.check.context import Asked
from toolkit.check.key_sweep import CHECKPOINTING, KEYS, what_keys_do
from toolkit.errors import SpecError
from toolkit.planner.plan import Plan
from toolkit.planner.what_if import Answer

ASKED = Asked("llama-3.1-8b", "8xA100-80GB", seq_len=4096, checkpointing="none")


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    plan = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64, engine="zero")
    recipe = toolkit.Recipe(model="llama-3.1-8b", workload=plan.workload)
    toolkit.emit(plan, tmp_path, recipe, overwrite=True)
    return plan


def written(folder: Path, content: Any) -> Path:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def sizes(answers: dict[str, Answer]) -> dict[str, int]:
    return {name: answer.plan.memory.total_bytes for name, answer in answers.items() if answer.plan}


def test_the_files_own_values_are_the_plan(made: Plan, tmp_path: Path) -> None:
    found = what_keys_do(tmp_path / "ds_config.json", ASKED)
    assert found.keys() == KEYS.keys()
    for key, answers in found.items():
        (now,) = (answer for name, answer in answers.items() if name.endswith("(now)"))
        assert now.plan is not None, key
        assert now.plan.strategy == made.strategy
        assert now.plan.memory == made.memory
        assert {answer.plan.workload.global_batch for answer in answers.values() if answer.plan} == {64}


def test_each_key_changes_what_it_is_known_for(made: Plan, tmp_path: Path) -> None:
    found = what_keys_do(tmp_path / "ds_config.json", ASKED)
    stages = list(sizes(found["zero_optimization.stage"]).values())
    assert stages == sorted(stages, reverse=True)
    micro = list(sizes(found["train_micro_batch_size_per_gpu"]).values())
    assert micro == sorted(micro)
    recomputed = list(sizes(found[CHECKPOINTING]).values())
    assert recomputed == sorted(recomputed, reverse=True)
    kept, moved = found["zero_optimization.offload_optimizer.device"].values()
    assert kept.plan is not None
    assert moved.plan is not None
    assert kept.plan.memory.host_bytes == 0 < moved.plan.memory.host_bytes
    refused = found["zero_optimization.offload_param.device"]["cpu"]
    assert refused.plan is None, "weights are offloaded with stage 3 alone"
    assert "ZeRO-3" in refused.refusal


def test_any_file_and_any_key(tmp_path: Path) -> None:
    # As a stranger's file may be: keys left out, batch by hand, a value that the defaults do not try.
    content = {"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2, "bf16": {"enabled": True}}
    found = what_keys_do(written(tmp_path, content), ASKED, {"train_micro_batch_size_per_gpu": (1, 2, 4)})
    assert list(found["train_micro_batch_size_per_gpu"]) == ["1", "2", "4", "3 (now)"]
    refused = found["train_micro_batch_size_per_gpu"]["4"]
    assert refused.plan is None, "4 on each of 8 does not divide a batch of 48"
    assert "48" in refused.refusal
    assert list(what_keys_do(written(tmp_path, {}), ASKED, {"zero_optimization.stage": (2,)})) == [
        "zero_optimization.stage"
    ]


def test_precision_is_the_files(tmp_path: Path) -> None:
    path = written(tmp_path, {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}})
    found = what_keys_do(path, ASKED, {"bf16.enabled": (True, False)})["bf16.enabled"]
    assert list(found) == ["True (now)", "False"]
    half, full = sizes(found).values()
    assert half < full


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": ', "3"])
def test_what_is_no_config_is_one_error(content: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"config\.json: is no JSON object"):
        what_keys_do(written(tmp_path, content), ASKED)
