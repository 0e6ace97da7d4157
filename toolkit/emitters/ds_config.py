"""Plan -> ds_config.json: every number resolved, no key that the chosen stage does not read.

Left out on purpose: `train_batch_size` (DeepSpeed counts tensor-parallel ranks as data parallel and then rejects the
right number), `optimizer` and `scheduler` (the toolkit builds both), `steps_per_print` (accelerate sets it to never).
Keys and defaults: deepspeed/runtime/config.py, zero/config.py and precision_config.py of 0.19.8.
"""

import math
from typing import Any

from toolkit.planner.buckets import zero_buckets
from toolkit.planner.plan import Plan
from toolkit.specs.zero_plus_plus import PLAIN, ZeroPlusPlus


def ds_config(plan: Plan, sends: ZeroPlusPlus = PLAIN) -> dict[str, Any]:
    """The configuration that DeepSpeed runs the plan with, ready for `json.dumps`.

    Args:
        plan: what is to run.
        sends: how ZeRO-3 is to send weights and gradients.
    """
    strategy = plan.strategy
    return {
        "train_micro_batch_size_per_gpu": strategy.micro_batch,
        "gradient_accumulation_steps": strategy.grad_accum,
        # Always written: the default went from 0 (off) to 1.0 in DeepSpeed 0.19.3.
        "gradient_clipping": plan.gradient_clipping,
        "zero_optimization": {**_zero(plan), **sends.keys},
        **_precision(plan),
        **_offloaded_optimizer(plan),
        **_tensor_parallel(plan),
        **_pipeline(plan),
        "wall_clock_breakdown": False,
    }


def _zero(plan: Plan) -> dict[str, Any]:
    """zero_optimization of the plan's stage."""
    stage, offload, on_gpu = plan.strategy.zero_stage, plan.strategy.offload, plan.cluster.device.kind != "cpu"
    if stage == 0:
        return {"stage": 0}
    sizes = zero_buckets(plan.model, plan.workload)
    zero: dict[str, Any] = {
        "stage": stage,
        # Streams and events do not exist on CPU.
        "overlap_comm": on_gpu,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": sizes.reduce,
    }
    if offload != "none":
        zero["offload_optimizer"] = _offload_device(plan)
    if offload == "all":
        zero["offload_param"] = _offload_device(plan) | _parameter_swap(plan)
    if stage < 3:
        return zero | {"allgather_partitions": True, "allgather_bucket_size": sizes.allgather}
    return zero | {
        "sub_group_size": sizes.sub_group,
        "stage3_prefetch_bucket_size": sizes.prefetch,
        "stage3_param_persistence_threshold": sizes.persistence,
        "stage3_max_live_parameters": sizes.max_live,
        "stage3_max_reuse_distance": sizes.max_live,
        # Without it `save_16bit_model` writes no weights at all.
        "stage3_gather_16bit_weights_on_model_save": True,
    }


def _offload_device(plan: Plan) -> dict[str, Any]:
    """Host memory, or a folder on a local disk; a relative path lies in the run folder."""
    pinned = {"pin_memory": plan.cluster.device.kind != "cpu"}
    if plan.strategy.offload_to == "cpu":
        return {"device": "cpu", **pinned}
    return {"device": "nvme", "nvme_path": plan.cluster.nvme_path or "offload", **pinned}


def _parameter_swap(plan: Plan) -> dict[str, Any]:
    """Buffers that hold a rank's share of the largest weight, and no weights kept in memory beside them.

    DeepSpeed would hold 1e9 weights in memory before it writes the first to the disk.
    """
    if plan.strategy.offload_to == "cpu":
        return {}
    largest = max(math.prod(shape) for shape in plan.model.weight_shapes.values())
    shares = plan.strategy.layout.dp * plan.strategy.layout.sp
    return {"buffer_count": 5, "buffer_size": math.ceil(largest / shares), "max_in_cpu": 0}


def _precision(plan: Plan) -> dict[str, Any]:
    """Which of its three sections is on."""
    rounds = plan.workload.weights == "bf16"
    found: dict[str, Any] = {"bf16": {"enabled": rounds}, "fp16": _fp16(plan)}
    if plan.workload.mixed == "none":
        found["bf16"] |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    if plan.workload.mixed == "autocast":
        # Gradients and gathered weights of the modules that it names would travel in bf16, without a need for it.
        found["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return found


def _fp16(plan: Plan) -> dict[str, Any]:
    """Dynamic loss scale, which `loss_scale: 0` means."""
    if plan.workload.precision != "fp16":
        return {"enabled": False}
    return {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "consecutive_hysteresis": False,
        "min_loss_scale": 1,
    }


def _offloaded_optimizer(plan: Plan) -> dict[str, bool]:
    """False lets the toolkit's own optimizer run on the host: DeepSpeed's default refuses all but DeepSpeedCPUAdam."""
    return {} if plan.strategy.offload == "none" else {"zero_force_ds_cpu_optimizer": False}


def _tensor_parallel(plan: Plan) -> dict[str, Any]:
    """AutoTP, embedding and head divided too: each rank sees its part of the logits, and the loss adds them up.

    Not of a pipeline, whose engine cuts the layers of a stage itself.
    """
    tp = plan.strategy.layout.tp
    if tp == 1 or plan.strategy.engine != "zero":
        return {}
    return {"tensor_parallel": {"autotp_size": tp, "vocab_parallel_lm_head": True}}


def _pipeline(plan: Plan) -> dict[str, Any]:
    """DeepSpeed's default sends between stages a part of a tensor per tensor-parallel rank and keeps the first one's
    shapes for good (runtime/pipe/engine.py), which is wrong where micro-batches differ in width."""
    if plan.strategy.engine != "pipeline":
        return {}
    return {"pipeline": {"pipe_partitioned": False, "grad_partitioned": False}}
