"""Known keys of the sections of a ds_config.json that are neither ZeRO nor number formats nor the optimizer.

Read off deepspeed 0.19.8: tensor_parallel/config.py, data_pipeline/constants.py, model_checkpointing/config.py and
swap_tensor/constants.py of runtime, and config.py of comm, compile, monitor, profiling, autotuning and utils.
"""

from toolkit.check.schema import OPEN, Key, Section, flag, number, one_of, part, text, whole

_TP = Section({"tp_size": whole(1, low=0, above=True), "tp_grain_size": whole(1), "mpu": OPEN, "tp_group": OPEN},
              unknown="refused", strict=False)  # fmt: skip
TENSOR_PARALLEL = Section(
    {
        "dtype": Key("never", default="torch.float16"),
        "autotp_size": whole(0, low=0),
        "tp_overlap_comm": flag(since="0.16.6"),
        "vocab_parallel_lm_head": flag(None, since="0.19.8"),
        "vocab_parallel_ce_backend": one_of("torch", "liger", default="torch", since="0.19.8"),
        "tensor_parallel": part(_TP),
        "injection_policy_tuple": Key("list"),
        "partition_config": Key("mapping", since="0.18.6"),
        "preset_model": text(since="0.18.6"),
        "keep_module_on_host": flag(),
        "replace_with_kernel_inject": flag(),
    },
    unknown="refused",
    strict=False,
    aliases={"tp": "tensor_parallel", "kernel_inject": "replace_with_kernel_inject"},
)
COMPILE = Section(
    {
        "deepcompile": flag(),
        "autoep_non_moe": flag(since="0.19.8"),
        "free_activation": flag(),
        "free_activation_threshold": whole(10 * 1024 * 1024, since="0.18.0"),
        "offload_activation": flag(),
        "offload_activation_pin_memory": flag(True, since="0.19.6"),
        "offload_opt_states": flag(),
        "double_buffer": flag(True),
        "symmetric_memory": flag(),
        "debug_log": flag(),
        "offload_parameters": flag(),
        "sync_before_reduce": flag(),
        "sync_after_reduce": flag(),
        "sync_before_allgather": flag(),
        "sync_after_allgather": flag(),
        "keep_int_input_tensors": flag(True, since="0.17.2"),
        "keep_all_input_tensors": flag(since="0.17.2"),
        "passes": Key("texts", nullable=True, since="0.18.9"),
    },
    unknown="refused",
    strict=False,
)
_WRITER = Section(
    {
        "type": one_of("mock", "python", "fast", "MOCK", "PYTHON", "FAST", default="fast"),
        "io_buffer_size": number(64 * 1024**2, low=0),
        "io_buffer_double": flag(True),
        "show_statistics": flag(),
        "data_parallel": one_of("replica", "socket", "machine", "REPLICA", "SOCKET", "MACHINE"),
        "decoupled": flag(),
        "io_multiplier": whole(1),
    }
)
CHECKPOINT = Section(
    {
        "tag_validation": one_of("Ignore", "Warn", "Fail", "IGNORE", "WARN", "FAIL", "ignore", "warn", "fail"),
        "load_universal": flag(),
        "use_node_local_storage": flag(),
        "parallel_write": part(Section({"pipeline_stage": flag()})),
        "checkpoint_serialization": flag(True, since="0.17.1"),
        "writer": part(_WRITER, since="0.17.1"),
    }
)
_LOGGED = {"enabled": flag(), "output_path": text(""), "job_name": text("DeepSpeedJobName")}
_COMET = Section(
    {"enabled": flag(), "samples_log_interval": whole(100), "project": text(), "workspace": text(), "api_key": text(),
     "experiment_name": text(), "experiment_key": text(), "online": flag(None), "mode": text()},
    unknown="refused", strict=False,
)  # fmt: skip
AUTOTUNING = Section(
    {
        **dict.fromkeys(("enabled", "fast", "overwrite"), flag(None)),
        **dict.fromkeys(("results_dir", "exps_dir", "metric", "metric_path", "model_info_path"), text()),
        **dict.fromkeys(("start_profile_step", "end_profile_step", "tuner_early_stopping", "tuner_num_trials"), OPEN),
        **dict.fromkeys(("max_train_batch_size", "min_train_batch_size", "num_tuning_micro_batch_sizes"), OPEN),
        **dict.fromkeys(("max_train_micro_batch_size_per_gpu", "min_train_micro_batch_size_per_gpu"), OPEN),
        **dict.fromkeys(("arg_mappings", "model_info", "mp_size"), OPEN),
        "tuner_type": one_of("gridsearch", "random", "model_based", default="gridsearch"),
    }
)
_SAMPLING = Section(
    {
        "enabled": flag(),
        "num_epochs": whole(1000),
        "num_workers": whole(0),
        "pin_memory": flag(),
        "curriculum_learning": OPEN,
        "dynamic_batching": Key("open", since="0.16.5"),
    },
    unknown="open",
)
_ROUTING = Section({"enabled": flag(), "random_ltd": OPEN})
EFFICIENCY = Section(
    {"enabled": flag(), "seed": whole(1234), "data_sampling": part(_SAMPLING), "data_routing": part(_ROUTING)}
)
PIPELINE = Section(
    {
        "stages": OPEN,
        "partition": text("best"),
        "seed_layers": flag(),
        "activation_checkpoint_interval": whole(0, low=0),
        "pipe_partitioned": flag(True),
        "grad_partitioned": flag(True),
        "use_reentrant": flag(None),
    },
)
EXPERTS = Section(
    {
        "enabled": flag(),
        "autoep_size": whole(1, low=0, above=True),
        "expert_tensor_parallel_size": whole(1, low=0, above=True),
        "preset_model": text(),
        **dict.fromkeys(
            ("validate_folding_routing", "async_split_plan", "disable_triton_grouped_mm", "has_shared_experts"), OPEN
        ),
        **dict.fromkeys(("moe_layer_pattern", "expert_pattern", "router_pattern", "shared_experts_pattern"), OPEN),
        **dict.fromkeys(("use_grouped_mm", "route_norm", "route_scale", "score_apply", "score_func", "top_k"), OPEN),
        **dict.fromkeys(("combine_impl", "row_weighting_impl", "gate_up_impl", "comm_backend", "comm_num_sm"), OPEN),
        **dict.fromkeys(
            ("comm_qp_margin", "comm_max_tokens_per_rank", "num_expert_groups", "num_limited_groups"), OPEN
        ),
        **dict.fromkeys(("load_balance_coeff", "routed_scaling_factor", "expert_w1", "expert_w2", "expert_w3"), OPEN),
        **dict.fromkeys(("num_experts_attr", "top_k_attr", "shared_experts_gate_pattern", "expert_activation"), OPEN),
    }
)
PROFILER = Section(
    {
        "enabled": flag(),
        "recompute_fwd_factor": number(0.0),
        "profile_step": whole(1),
        "module_depth": whole(-1),
        "top_modules": whole(1),
        "detailed": flag(True),
        "output_file": text(),
    }
)
HYBRID = Section(
    {
        "enabled": flag(),
        "max_out_tokens": whole(512, low=0, above=True),
        "inference_tp_size": whole(1),
        "release_inference_cache": flag(),
        "pin_parameters": flag(True),
        "tp_gather_partition_size": whole(8),
        "enable_cuda_graph": flag(since="0.19.6"),
    },
    unknown="refused",
    strict=False,
)
COMMS = Section(
    {
        "enabled": flag(),
        "prof_all": flag(True),
        "prof_ops": Key("list", default=()),
        "verbose": flag(),
        "debug": flag(),
    },
    unknown="refused",
    strict=False,
)
AIO = Section(
    {
        "block_size": whole(1_048_576, low=0, above=True),
        "queue_depth": whole(8, low=0, above=True),
        "intra_op_parallelism": whole(1, low=0, above=True, since="0.16.4"),
        "single_submit": flag(),
        "overlap_events": flag(True),
        "use_gds": flag(),
    }
)
THROUGHPUT = Section({"enabled": flag(True), "synchronized": flag(True)}, unknown="refused", strict=False)


def _pydantic(keys: dict[str, Key]) -> Section:
    return Section(keys, unknown="refused", strict=False)


MONITORS: dict[str, Key] = {
    "tensorboard": part(_pydantic(_LOGGED)),
    "csv_monitor": part(_pydantic(_LOGGED)),
    "wandb": part(_pydantic({"enabled": flag(), "group": text(), "team": text(), "project": text("deepspeed")})),
    "comet": part(_COMET),
}
