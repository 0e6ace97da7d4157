"""Known keys of an accelerate config file.

Read off accelerate 1.15.0: commands/config/config_args.py (`ClusterConfig`) and the options of commands/launch.py. At
the top level an unknown key is refused; inside the sections each key is set as an option of that name, and one that no
option has is never looked at.
"""

from toolkit.check.finding import Location
from toolkit.check.schema import OPEN, Key, Section, flag, number, one_of, part, text, whole

_WORD = Key("open")
"""True, false or a text that says so: accelerate compares lower-case texts."""


def _any_case(*choices: str) -> Key:
    """One of a few words; accelerate makes capitals of what is given."""
    return Key("choice", choices=choices, converted=True)


_DEVICE = one_of("none", "cpu", "nvme", "NONE", "CPU", "NVME", default="none")
_PRECISION = one_of("no", "fp16", "bf16", "fp8", "NO", "FP16", "BF16", "FP8")
_DEEPSPEED = Section(
    {
        "deepspeed_config_file": text(),
        "zero_stage": whole(2, low=0),
        "offload_optimizer_device": _DEVICE,
        "offload_param_device": _DEVICE,
        "offload_optimizer_nvme_path": text(),
        "offload_param_nvme_path": text(),
        "gradient_accumulation_steps": whole(1, low=0, above=True),
        "gradient_clipping": number(low=0),
        "zero3_init_flag": _WORD,
        "zero3_save_16bit_model": _WORD,
        "deepspeed_hostfile": text(),
        "deepspeed_exclusion_filter": text(),
        "deepspeed_inclusion_filter": text(),
        "deepspeed_multinode_launcher": one_of("pdsh", "standard", "openmpi", "mvapich", "mpich", "nossh", "slurm"),
        "deepspeed_moe_layer_cls_names": text(),
    },
    # They go through the environment, as text.
    strict=False,
)
_FSDP = Section(
    {
        **{
            f"fsdp_{name}": OPEN
            for name in (
                "version", "offload_params", "min_num_params", "reshard_after_forward",
                "transformer_layer_cls_to_wrap", "forward_prefetch", "use_orig_params", "cpu_ram_efficient_loading",
                "sync_module_states", "activation_checkpointing", "activation_checkpointing_offload",
                "ignored_modules",
            )
        },
        # Names, or their numbers from 1.
        "fsdp_sharding_strategy": _any_case(
            "FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2", "_HYBRID_SHARD_ZERO2",
            "1", "2", "3", "4", "5",
        ),
        "fsdp_auto_wrap_policy": _any_case("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
        "fsdp_backward_prefetch": _any_case("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH", "1", "2"),
        "fsdp_state_dict_type": _any_case(
            "FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT", "1", "2", "3"
        ),
    }
)  # fmt: skip
_MEGATRON = Section(
    {
        **{
            f"megatron_lm_{name}": whole(low=0)
            for name in (
                "tp_degree", "pp_degree", "num_micro_batches", "recompute_num_layers",
                "decoder_last_pipeline_num_layers", "expert_model_parallel_size",
                "context_parallel_size", "expert_tensor_parallel_size",
            )
        },
        **{
            f"megatron_lm_{name}": OPEN
            for name in (
                "use_custom_fsdp", "no_load_optim", "eod_mask_loss", "overlap_cpu_optimizer_d2h_h2d", "no_save_optim",
                "optimizer_cpu_offload", "use_precision_aware_optimizer", "sequence_parallelism",
                "recompute_activations", "use_distributed_optimizer", "recompute_granularity", "recompute_method",
                "attention_backend", "attention_softmax_in_fp32", "calculate_per_token_loss",
                "use_rotary_position_embeddings",
            )
        },
        "megatron_lm_gradient_clipping": number(1.0, low=0),
        "megatron_lm_attention_dropout": number(low=0, high=1),
        "megatron_lm_hidden_dropout": number(low=0, high=1),
    }
)  # fmt: skip
_PARALLELISM = Section(
    {
        **{
            f"parallelism_config_{name}": whole(1, low=0, above=True)
            for name in ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size")
        },
        "parallelism_config_cp_backend": one_of("torch", default="torch"),
        "parallelism_config_cp_comm_strategy": one_of("allgather", "alltoall", default="allgather"),
        "parallelism_config_sp_backend": one_of("deepspeed", default="deepspeed"),
        "parallelism_config_sp_seq_length": OPEN,
        "parallelism_config_sp_seq_length_is_variable": _WORD,
        "parallelism_config_sp_attn_implementation": text(),
    }
)
_DYNAMO = Section(
    {
        **{f"dynamo_{name}": OPEN for name in ("mode", "use_fullgraph", "use_dynamic", "use_regional_compilation")},
        "dynamo_backend": _any_case(
            "NO", "EAGER", "AOT_EAGER", "INDUCTOR", "AOT_TS_NVFUSER", "NVPRIMS_NVFUSER", "CUDAGRAPHS", "OFI", "FX2TRT",
            "ONNXRT", "TENSORRT", "AOT_TORCHXLA_TRACE_ONCE", "TORCHXLA_TRACE_ONCE", "TVM", "HPU_BACKEND", "NEURON",
        ),
    }
)  # fmt: skip
_FP8 = Section(
    {
        f"fp8_{name}": OPEN
        for name in (
            "backend", "use_autocast_during_eval", "margin", "interval", "format", "amax_history_len",
            "amax_compute_algo", "override_linear_precision", "opt_level", "enable_fsdp_float8_all_gather",
            "pad_inner_dim",
        )
    }
)  # fmt: skip

PREFIXES = {"fsdp_config": "fsdp_", "fp8_config": "fp8_", "dynamo_config": "dynamo_"}
"""Sections whose keys may leave their prefix out."""

ACCELERATE = Section(
    {
        "compute_environment": one_of("LOCAL_MACHINE", "AMAZON_SAGEMAKER", default="LOCAL_MACHINE"),
        "distributed_type": one_of(
            "NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_XPU",
            "DEEPSPEED", "FSDP", "XLA", "MEGATRON_LM", "MULTI_HPU", "MULTI_NEURON",
        ),
        "mixed_precision": _PRECISION,
        "use_cpu": flag(),
        "debug": flag(),
        # In quotes it is taken on one machine; accelerate_ranks.py has several.
        "num_processes": Key("int", -1, low=-1, converted=True),
        "machine_rank": Key("int", 0, low=0, converted=True),
        "num_machines": whole(1, low=0, above=True),
        "gpu_ids": text(),
        "main_process_ip": text(),
        "main_process_port": whole(low=0),
        "rdzv_backend": text("static"),
        "same_network": flag(),
        "main_training_function": text("main"),
        "enable_cpu_affinity": flag(),
        "fp8_config": part(_FP8, nullable=True),
        "deepspeed_config": part(_DEEPSPEED, nullable=True),
        "fsdp_config": part(_FSDP, nullable=True),
        "parallelism_config": part(_PARALLELISM, nullable=True),
        "megatron_lm_config": part(_MEGATRON, nullable=True),
        "mpirun_config": part(Section({"mpirun_hostfile": text(), "mpirun_ccl": OPEN})),
        "downcast_bf16": OPEN,
        "tpu_name": OPEN,
        "tpu_zone": OPEN,
        "tpu_use_cluster": OPEN,
        "tpu_use_sudo": OPEN,
        "command_file": OPEN,
        "commands": OPEN,
        "tpu_vm": OPEN,
        "tpu_env": OPEN,
        "dynamo_config": part(_DYNAMO, nullable=True),
        # Read from files of old releases and converted.
        "fp16": OPEN,
        "dynamo_backend": OPEN,
    },
    unknown="refused",
)  # fmt: skip
GONE: dict[Location, str] = {("ipex_config",): ": IPEX is not supported"}
"""Keys that the questionnaires of older releases wrote and 1.15 refuses."""

SAGEMAKER = Section(
    {
        "compute_environment": one_of("AMAZON_SAGEMAKER"),
        "distributed_type": one_of("NO", "DATA_PARALLEL", "MODEL_PARALLEL", default="NO"),
        "mixed_precision": _PRECISION,
        "use_cpu": flag(),
        "debug": flag(),
        "ec2_instance_type": text(),
        "iam_role_name": text(),
        **dict.fromkeys(("image_uri", "profile", "region", "gpu_ids", "base_job_name", "py_version"), text()),
        **dict.fromkeys(("pytorch_version", "transformers_version"), OPEN),
        "num_machines": whole(1, low=0, above=True),
        "sagemaker_inputs_file": text(),
        "sagemaker_metrics_file": text(),
        "additional_args": OPEN,
        "dynamo_config": part(_DYNAMO, nullable=True),
        "enable_cpu_affinity": flag(),
        "fp16": OPEN,
        "dynamo_backend": OPEN,
    },
    unknown="refused",
)
"""A file of compute_environment AMAZON_SAGEMAKER (config_args.py, `SageMakerConfig`)."""
SAGEMAKER_NEEDS = ("ec2_instance_type", "iam_role_name")
