"""Known keys of a ds_config.json.

Read off deepspeed 0.19.8: runtime/config.py, constants.py, precision_config.py, activation_checkpointing/config.py and
what ds_zero_schema.py and ds_parts_schema.py name. The top level is a plain dict: what nobody asks
for is never looked at, and no type is checked.
"""

from dataclasses import replace

from toolkit.check.ds_parts_schema import (
    AIO,
    AUTOTUNING,
    CHECKPOINT,
    COMMS,
    COMPILE,
    EFFICIENCY,
    EXPERTS,
    HYBRID,
    MONITORS,
    PIPELINE,
    PROFILER,
    TENSOR_PARALLEL,
    THROUGHPUT,
)
from toolkit.check.ds_zero_schema import ZERO
from toolkit.check.finding import Severity
from toolkit.check.schema import NUMBERS, OPEN, TEXTS, Key, Section, flag, number, one_of, part, text, whole

_DTYPE = one_of(
    "fp32", "fp16", "bf16", "float32", "float16", "bfloat16", "torch.float32", "torch.float16", "torch.bfloat16",
    "half", "float",
)  # fmt: skip
_LATER_DTYPE = replace(_DTYPE, since="0.19.2")
_SENT = one_of("fp16", "bf16", "fp32", "FP16", "BF16", "FP32")

_FP16 = Section(
    {
        "enabled": flag(),
        "auto_cast": flag(),
        "loss_scale": number(0, low=0),
        "initial_scale_power": whole(16, low=0),
        "loss_scale_window": whole(1000),
        "hysteresis": whole(2),
        "consecutive_hysteresis": flag(),
        "min_loss_scale": whole(1),
        "fp16_master_weights_and_grads": flag(),
    },
    unknown="refused",
    refuses_since="0.17.1",
    strict=False,
)
_BF16 = Section(
    {
        "enabled": flag(),
        "immediate_grad_update": flag(),
        "check_grad_overflow": flag(True),
        "bf16_master_weights_and_grads": flag(since="0.18.3"),
        "bf16_optimizer_states": flag(since="0.18.3"),
    },
    unknown="refused",
    refuses_since="0.17.1",
    strict=False,
)
_AUTOCAST = Section({"enabled": flag(), "dtype": _DTYPE, "lower_precision_safe_modules": TEXTS})

_ADAM_PARAMS: dict[str, Key] = {
    "lr": number(low=0),
    "betas": NUMBERS,
    "eps": number(low=0),
    "weight_decay": number(low=0),
}
OPTIMIZER_PARAMS = Section(_ADAM_PARAMS, unknown="open")
"""What an optimizer takes besides is its own affair; `optimizers.py` knows Adam's."""
_OPTIMIZER = Section({"type": text(), "params": part(OPTIMIZER_PARAMS, nullable=True), "legacy_fusion": flag()})

_WARMUP: dict[str, Key] = {
    "warmup_min_lr": OPEN,
    "warmup_max_lr": OPEN,
    "warmup_num_steps": whole(1000, low=0),
    "warmup_type": one_of("log", "linear", default="log"),
    "total_num_steps": whole(low=0, above=True),
    "last_batch_iteration": whole(-1),
    "warmup_min_ratio": number(0.0, low=0),
    "cos_min_ratio": number(0.0001, low=0),
}
_SCHEDULER = Section({"type": text(), "params": part(Section(_WARMUP, unknown="open"))})

_ACTIVATION = Section(
    {
        "partition_activations": flag(),
        "number_checkpoints": whole(),
        "contiguous_memory_optimization": flag(),
        "synchronize_checkpoint_boundary": flag(),
        "profile": flag(),
        "cpu_checkpointing": flag(),
    }
)
_DATA_TYPES = Section(
    {
        "grad_accum_dtype": _DTYPE,
        "param_dtype": _LATER_DTYPE,
        "buffer_dtype": _LATER_DTYPE,
        "keep_in_fp32_modules": Key("texts", "auto", since="0.19.8"),
    }
)
_PRECISION: dict[str, Key] = {
    "fp16": part(_FP16),
    "bf16": part(_BF16, nullable=True),
    "torch_autocast": part(_AUTOCAST, since="0.17.2"),
    "data_types": part(_DATA_TYPES),
    "communication_data_type": _SENT,
    "seq_parallel_communication_data_type": _SENT,
}
_BATCH: dict[str, Key] = {
    "train_batch_size": whole(low=0, above=True),
    "train_micro_batch_size_per_gpu": whole(low=0, above=True),
    "gradient_accumulation_steps": whole(low=0, above=True),
    "managed_gradient_accumulation": flag(True, since="0.19.4"),
}
_SECTIONS: dict[str, Key] = {
    "zero_optimization": part(ZERO),
    "optimizer": part(_OPTIMIZER),
    "scheduler": part(_SCHEDULER),
    "activation_checkpointing": part(_ACTIVATION),
    "tensor_parallel": part(TENSOR_PARALLEL, since="0.16.4"),
    "pipeline": part(PIPELINE),
    "compile": part(COMPILE, since="0.16.6"),
    "checkpoint": part(CHECKPOINT),
    "data_efficiency": part(EFFICIENCY),
    "autotuning": part(AUTOTUNING),
    "aio": part(AIO, nullable=True),
    "flops_profiler": part(PROFILER),
    "comms_logger": part(COMMS),
    "hybrid_engine": part(HYBRID),
    "timers": part(Section({"throughput": part(THROUGHPUT)})),
    "datastates_ckpt": Key("open", since="0.18.1"),
    "weight_quantization": OPEN,
    "expert_parallel": part(EXPERTS, since="0.19.2"),
}

DS_CONFIG = Section(
    {
        **_BATCH,
        "gradient_clipping": number(low=0),
        **_PRECISION,
        **_SECTIONS,
        **MONITORS,
        "zero_allow_untested_optimizer": flag(),
        "zero_force_ds_cpu_optimizer": flag(True),
        # accelerate sets it to float("inf"), and people copy that.
        "steps_per_print": number(),
        "prescale_gradients": flag(),
        "gradient_predivide_factor": number(1.0, low=0, above=True),
        "gradient_allreduce_op": one_of("mean", "sum", "MEAN", "SUM", default="mean", since="0.19.6"),
        "disable_allgather": flag(),
        "dump_state": flag(),
        "disable_python_gc": flag(since="0.19.8"),
        "vocabulary_size": whole(low=0),
        "wall_clock_breakdown": flag(),
        "memory_breakdown": flag(),
        "use_data_before_expert_parallelism": flag(),
        "dataloader_drop_last": flag(),
        "log_level": text(since="0.19.3"),
        "sequence_parallel_size": whole(low=0, above=True, since="0.17.0"),
        "msamp": OPEN,  # Put in by accelerate for its MS-AMP back end.
    },
    aliases={"bfloat16": "bf16"},
)

IGNORED: dict[str, tuple[Severity, str]] = {
    "comms_config": ("note", "`comms_logger` is the section that is read"),
    "monitor_config": ("note", "`tensorboard`, `wandb`, `comet` and `csv_monitor` are read at the top level"),
    "allgather_size": ("note", "`zero_optimization.allgather_bucket_size` is read"),
    "fp32_allreduce": ("warning", "`communication_data_type` is read"),
    "torch_dtype": ("warning", "the model's own dtype and the sections bf16 and fp16 count"),
    "seed": ("note", "the script's own seed counts"),
    "fp8": ("warning", "nothing trains in fp8 by it; accelerate has `mixed_precision: fp8`"),
    "sequence_parallel": ("warning", "no sequence is divided by it; accelerate's `parallelism_config` does that"),
    "gradient_checkpointing": ("warning", "the Trainer's argument of that name, or the model's own method, starts it"),
    "gradient_noise_scale": ("note", "nothing measures it"),
}
"""Keys that well-known templates carry and DeepSpeed never looks at; what to write where something is wanted."""
