"""The tiny copy has the run's layout, and its file with what people changed in it."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.planner.plan import Plan
from toolkit.preflight.copies import alone, num_layers, num_shards, tiny_ds_config, tiny_plan, tiny_stages
from toolkit.specs.model import ModelSpec


def plan_for(**choices: Any) -> Plan:
    usual = {"seq_len": 2048, "global_batch": 64}
    return toolkit.plan("meta-llama/Llama-3.1-8B", "8xH100-80GB", **{**usual, **choices})


@pytest.mark.parametrize(
    ("choices", "stages", "layers"),
    [
        ({"zero_stage": 2}, (), 2),
        ({"pp": 4, "stages": (9, 8, 8, 7)}, (2, 1, 1, 1), 5),
        ({"pp": 2, "engine": "mcore", "vpp": 2}, (4, 4), 8),
    ],
)
def test_stages_keep_their_unevenness(choices: dict[str, Any], stages: tuple[int, ...], layers: int) -> None:
    strategy = plan_for(**choices).strategy
    assert tiny_stages(strategy) == stages
    assert num_layers(strategy) == layers


def test_batches_are_small_and_still_accumulate() -> None:
    plan = plan_for(zero_stage=3, tp=2, micro_batch=4)
    small = tiny_plan(plan, ModelSpec.resolve("HuggingFaceTB/SmolLM-135M"))
    assert num_shards(plan.strategy.layout) == 2
    assert small.strategy.layout == plan.strategy.layout
    assert (small.strategy.micro_batch, small.strategy.grad_accum) == (2, 2)
    assert small.workload.global_batch == small.strategy.layout.dp * 4
    single = alone(small)
    assert single.world_size == 1
    assert single.strategy.micro_batch * single.strategy.grad_accum == small.workload.global_batch


def test_edits_by_hand_are_kept(tmp_path: Path) -> None:
    plan = plan_for(zero_stage=3, micro_batch=4)
    small = tiny_plan(plan, ModelSpec.resolve("HuggingFaceTB/SmolLM-135M"))
    edited = tmp_path / "ds_config.json"
    zero = {
        "stage": 3,
        "overlap_comm": False,
        "zero_hpz_partition_size": 8,
        "stage3_param_persistence_threshold": 10**6,
    }
    content = {"gradient_clipping": 0.25, "train_batch_size": 64, "bf16": {"enabled": True}, "zero_optimization": zero}
    edited.write_text(json.dumps(content))
    found = tiny_ds_config(small, edited)
    assert found["gradient_clipping"] == 0.25
    assert found["train_micro_batch_size_per_gpu"] == 2
    assert "train_batch_size" not in found
    assert found["zero_optimization"] == {"stage": 3, "overlap_comm": False, "stage3_param_persistence_threshold": 0}
    single = tiny_ds_config(alone(small), edited)
    assert (single["gradient_clipping"], single["bf16"]) == (0.25, {"enabled": True})
    assert single["zero_optimization"] == {"stage": 0}
