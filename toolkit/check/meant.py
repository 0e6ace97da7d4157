"""Names that people write and DeepSpeed never had, and the key that each stands for.

Most are other programs' names of the same thing: transformers', Lightning's, Megatron's. They look too little like
DeepSpeed's own to be found by likeness.
"""

from toolkit.check.finding import Location

_CLIP: Location = ("gradient_clipping",)
_MICRO: Location = ("train_micro_batch_size_per_gpu",)
_TOTAL: Location = ("train_batch_size",)
_ACCUM: Location = ("gradient_accumulation_steps",)
_TP: Location = ("tensor_parallel", "autotp_size")
_LR: Location = ("optimizer", "params", "lr")
_Z = "zero_optimization"

MEANT: dict[Location, Location] = {
    **dict.fromkeys(
        [(name,) for name in ("max_grad_norm", "grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val")], _CLIP
    ),
    **dict.fromkeys(
        [(name,) for name in ("micro_batch_size", "train_micro_batch_size", "per_device_train_batch_size")], _MICRO
    ),
    **dict.fromkeys([(name,) for name in ("global_batch_size", "batch_size", "train_global_batch_size")], _TOTAL),
    **dict.fromkeys([(name,) for name in ("grad_accum_steps", "grad_accum", "accumulate_grad_batches")], _ACCUM),
    **dict.fromkeys(
        [(name,) for name in ("tp_size", "tensor_parallel_size", "tensor_model_parallel_size", "autotp_size")], _TP
    ),
    **dict.fromkeys([("tensor_parallel", name) for name in ("tp_size", "size", "tensor_parallel_size")], _TP),
    ("lr",): _LR,
    ("learning_rate",): _LR,
    ("optimizer", "lr"): _LR,
    ("optimizer", "params", "learning_rate"): _LR,
    ("lr_scheduler",): ("scheduler",),
    ("zero",): (_Z,),
    ("zero_stage",): (_Z, "stage"),
    (_Z, "zero_stage"): (_Z, "stage"),
    ("offload",): (_Z, "offload_optimizer"),
    (_Z, "offload_optimizer_device"): (_Z, "offload_optimizer", "device"),
    (_Z, "offload_param_device"): (_Z, "offload_param", "device"),
    ("pp_size",): ("pipeline", "stages"),
    ("pipeline_parallel_size",): ("pipeline", "stages"),
    ("sp_size",): ("sequence_parallel_size",),
    ("checkpoint_activations",): ("activation_checkpointing",),
    ("bf_16",): ("bf16",),
    ("fp_16",): ("fp16",),
}
"""Where a name stands -> where DeepSpeed reads what it says."""
AMBIGUOUS = {"batch_size"}
"""Of these, nobody but the author knows that the number is the same."""
