"""ds_config.json: what is in it, what must not be, and that DeepSpeed's own parser reads it as meant."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from toolkit.emitters.ds_config import ds_config
from toolkit.emitters.scenarios import SCENARIOS
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

# Removed from DeepSpeed by 0.19.8: they raise even with `enabled: false`.
REMOVED = {
    "amp",
    "compression_training",
    "curriculum_learning",
    "eigenvalue",
    "elasticity",
    "graph_harvesting",
    "mics_hierarchical_params_gather",
    "mics_shard_size",
    "nebula",
    "progressive_layer_drop",
    "quantize_training",
    "sparse_attention",
    "sparse_gradients",
    "zeropp_loco_param",
}
# Ours to build, or wrong under tensor parallelism.
NOT_OURS = {"optimizer", "scheduler", "train_batch_size"}


def plan(stage: int, offload: str = "none", *, precision: str = "bf16", cluster: str = "2xA100-80GB") -> Plan:
    fixed = Fixed.model_validate({"zero_stage": stage, "offload": offload})
    workload = Workload.model_validate({"seq_len": 512, "global_batch": 8, "precision": precision})
    return make_plan(ModelSpec.resolve("smollm-135m"), ClusterSpec.resolve(cluster), workload, fixed=fixed)


STRATEGIES = [
    plan(stage, offload, precision=precision, cluster=cluster)
    for (stage, offload), (precision, cluster) in itertools.product(
        [
            (0, "none"),
            (1, "none"),
            (1, "optimizer"),
            (2, "none"),
            (2, "optimizer"),
            (3, "none"),
            (3, "optimizer"),
            (3, "all"),
        ],
        [("bf16", "2xA100-80GB"), ("fp16", "2xV100-32GB"), ("fp32", "2xcpu")],
    )
]
SCENARIO_PLANS = [scenario.plan() for scenario in SCENARIOS]
PLANS = [*STRATEGIES, *SCENARIO_PLANS]


def walk(node: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from walk(value)


def name(plan: Plan) -> str:
    return f"{plan.model.name}-{plan.cluster.name}-z{plan.strategy.zero_stage}-{plan.strategy.offload}"


@pytest.fixture(scope="module")
def parsers() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        config = pytest.importorskip("deepspeed.runtime.config")
    plugin = pytest.importorskip("accelerate.utils").DeepSpeedPlugin
    return config.DeepSpeedConfig, plugin


@pytest.mark.parametrize("made", PLANS, ids=name)
def test_deepspeed_reads_what_the_plan_says(made: Plan, parsers: Any) -> None:
    # Without a process group DeepSpeed counts one rank; the rest of the file does not depend on their number.
    read = parsers[0](json.loads(json.dumps(ds_config(made))))
    strategy = made.strategy
    assert read.train_micro_batch_size_per_gpu == strategy.micro_batch
    assert read.gradient_accumulation_steps == strategy.grad_accum
    assert read.train_batch_size == strategy.micro_batch * strategy.grad_accum
    assert read.gradient_clipping == made.gradient_clipping
    assert read.zero_optimization_stage == strategy.zero_stage
    assert read.bfloat16_config.enabled == (made.workload.precision == "bf16")
    assert read.float16_config.enabled == (made.workload.precision == "fp16")
    offloaded = [
        str(getattr(device.device, "value", device.device)) if device else "none"
        for device in (read.zero_config.offload_optimizer, read.zero_config.offload_param)
    ]
    assert (
        offloaded == {"none": ["none", "none"], "optimizer": ["cpu", "none"], "all": ["cpu", "cpu"]}[strategy.offload]
    )
    assert read.zero_force_ds_cpu_optimizer == (strategy.offload == "none")
    assert read.optimizer_name is None
    assert read.scheduler_name is None


def test_a_disk_gets_a_folder_and_buffers_that_hold_the_largest_share() -> None:
    fixed = Fixed(zero_stage=3, offload="all", offload_to="nvme")
    model, cluster = ModelSpec.resolve("llama-3.1-8b"), ClusterSpec.resolve("2xA100-80GB")
    named = cluster.model_copy(update={"nvme_path": "/local_nvme/swap"})
    for machines, path in ((cluster, "offload"), (named, "/local_nvme/swap")):
        made = make_plan(model, machines, Workload(seq_len=512, global_batch=8), fixed=fixed)
        zero = ds_config(made)["zero_optimization"]
        device = {"device": "nvme", "nvme_path": path, "pin_memory": True}
        assert zero["offload_optimizer"] == device
        assert zero["offload_param"] == device | {"buffer_count": 5, "buffer_size": 128256 * 4096 // 2, "max_in_cpu": 0}


@pytest.mark.parametrize("made", STRATEGIES, ids=name)
def test_accelerate_reads_it_without_filling_anything_in(made: Plan, parsers: Any) -> None:
    config = ds_config(made)
    read = parsers[1](hf_ds_config=json.loads(json.dumps(config))).deepspeed_config
    assert {key: read[key] for key in config} == config


@pytest.mark.parametrize("made", PLANS, ids=name)
def test_every_value_is_resolved(made: Plan) -> None:
    for key, value in walk(ds_config(made)):
        assert value not in ("auto", -1, None, "none"), key
        assert not isinstance(value, float) or key == "gradient_clipping", key


@pytest.mark.parametrize("made", PLANS, ids=name)
def test_no_removed_and_no_foreign_key(made: Plan) -> None:
    keys = {key for key, _ in walk(ds_config(made))}
    assert not keys & (REMOVED | NOT_OURS)


def test_the_list_of_removed_keys_is_deepspeeds(parsers: Any) -> None:
    import deepspeed.runtime.config as installed

    assert {*installed._REMOVED_TOP_LEVEL_CONFIG_KEYS, *installed._REMOVED_ZERO_CONFIG_KEYS} <= REMOVED


@pytest.mark.parametrize("made", STRATEGIES, ids=name)
def test_a_stage_gets_its_own_keys_only(made: Plan) -> None:
    zero, stage = ds_config(made)["zero_optimization"], made.strategy.zero_stage
    assert all(key.startswith("stage3_") == (stage == 3) for key in zero if key.startswith("stage3_"))
    assert ("allgather_bucket_size" in zero) == (stage in (1, 2))
    assert ("reduce_bucket_size" in zero) == (stage > 0)
    assert ("offload_param" in zero) == (made.strategy.offload == "all")
    if stage == 0:
        assert zero == {"stage": 0}
    if stage == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True


def test_streams_and_pinned_memory_follow_the_device() -> None:
    for cluster, precision, on_cuda in (("2xA100-80GB", "bf16", True), ("2xcpu", "fp32", False)):
        zero = ds_config(plan(3, "all", precision=precision, cluster=cluster))["zero_optimization"]
        assert zero["overlap_comm"] is on_cuda
        assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": on_cuda}


DIVIDED = {"tp": 2}, {"sp": 2, "tp": 1}, {"tp": 2, "sp": 2}, {"pp": 2}, {"pp": 2, "tp": 2}


@pytest.mark.parametrize("degrees", DIVIDED, ids=str)
def test_how_a_replica_is_divided(degrees: dict[str, int], parsers: Any) -> None:
    model, machines = ModelSpec.resolve("llama-3.2-1b"), ClusterSpec.resolve("4xA100-80GB")
    made = make_plan(model, machines, Workload(seq_len=512, global_batch=8), fixed=Fixed.model_validate(degrees))
    config, engine = ds_config(made), made.strategy.engine
    # Sequence parallelism is ours alone, and the pipeline's engine cuts the layers of a stage itself.
    tensor = {"autotp_size": 2, "vocab_parallel_lm_head": True} if degrees.get("tp") == 2 and engine == "zero" else None
    assert config.get("tensor_parallel") == tensor
    sent = {"pipe_partitioned": False, "grad_partitioned": False} if engine == "pipeline" else None
    assert config.get("pipeline") == sent
    read = parsers[0](json.loads(json.dumps(config)))
    if sent:
        assert {name: read.pipeline[name] for name in sent} == sent


def test_fp16_has_a_dynamic_loss_scale() -> None:
    fp16 = ds_config(plan(2, precision="fp16"))["fp16"]
    assert fp16["loss_scale"] == 0
    assert {"initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale"} < fp16.keys()
