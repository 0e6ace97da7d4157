"""Known keys of ds_config's `zero_optimization`.

Read off deepspeed 0.19.8: runtime/zero/config.py, offload_config.py, leaf_module_config.py and
runtime/zenflow/zenflow_config.py. All of them are pydantic models that refuse what they do not know, convert "4" to 4,
and take the value "auto" for a key that was left out. `since` is the first release that has the key: each one from
0.16.1 on was compared, with 0.14.5 and 0.15.4.
"""

from toolkit.check.schema import WORDS, Key, Section, flag, number, one_of, part, text, whole

OFFLOAD_PARAM = Section(
    {
        "device": one_of("none", "cpu", "nvme", default="none"),
        "nvme_path": text(),
        "buffer_count": whole(5, low=0),
        "buffer_size": whole(100_000_000, low=0),
        "max_in_cpu": whole(1_000_000_000, low=0),
        "pin_memory": flag(True),
    },
    unknown="refused",
    strict=False,
)

OFFLOAD_OPTIMIZER = Section(
    {
        "device": one_of("none", "cpu", "nvme", default="none"),
        "nvme_path": text(),
        "buffer_count": whole(4, low=0),
        "pin_memory": flag(True),
        "pipeline_read": flag(),
        "pipeline_write": flag(),
        "fast_init": flag(),
        "ratio": number(1.0, low=0, high=1),
        "super_offload": flag(since="0.18.0"),
        "cpuadam_cores_perc": number(0.8, low=0, high=1, since="0.18.0"),
    },
    unknown="refused",
    strict=False,
)

_ZENFLOW = Section(
    {
        "topk_ratio": Key("number", 0.1, low=0, high=1, above=True, below=True),
        "select_strategy": one_of("auto", "step", "epoch", default="auto"),
        # Or the word "auto".
        "select_interval": Key("int", "auto"),
        "update_interval": Key("int", "auto", low=1),
        "overlap_step": flag(),
        "offload": flag(),
        "auto_ratio": number(0.99, low=0, high=1),
        "full_warm_up_rounds": whole(0),
        "pt_reserved_cores_perc": number(0.5, low=0, high=1, since="0.17.6"),
        "steps_per_epoch": whole(),
    },
    unknown="refused",
    strict=False,
)

_LEAF_MODULE = Section(dict.fromkeys(("classes", "names", "name_suffixes"), WORDS), unknown="refused", strict=False)

STAGE3_ALIASES = {
    name.removeprefix("stage3_"): name
    for name in (
        "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold",
        "stage3_model_persistence_threshold",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "stage3_gather_16bit_weights_on_model_save",
        "stage3_module_granularity_threshold",
        "stage3_use_all_reduce_for_fetch_params",
        "stage3_allgather_sequential",
    )
}
"""DeepSpeed reads these keys under both names."""

_STAGE3: dict[str, Key] = {
    "sub_group_size": whole(1_000_000_000, low=0),
    "stage3_prefetch_bucket_size": whole(50_000_000, low=0),
    "stage3_param_persistence_threshold": whole(100_000, low=0),
    "stage3_model_persistence_threshold": whole(2**63 - 1, low=0),
    "stage3_max_live_parameters": whole(1_000_000_000, low=0),
    "stage3_max_reuse_distance": whole(1_000_000_000, low=0),
    "stage3_gather_16bit_weights_on_model_save": flag(),
    "stage3_module_granularity_threshold": whole(0, since="0.16.0"),
    "stage3_use_all_reduce_for_fetch_params": flag(),
    "stage3_allgather_sequential": flag(since="0.18.5"),
    "memory_efficient_linear": flag(True),
    "pipeline_loading_checkpoint": flag(),
    "override_module_apply": flag(True),
    "save_muon_momentum_buffer_in_memory": flag(since="0.18.9"),
    "leaf_module": part(_LEAF_MODULE, nullable=True, since="0.18.0"),
}

_OLD: dict[str, Key] = {
    "cpu_offload": flag(None),
    "cpu_offload_param": flag(None),
    "cpu_offload_use_pin_memory": flag(None),
    "stage3_gather_fp16_weights_on_model_save": flag(),
}

_SENDING: dict[str, Key] = {
    "zero_hpz_partition_size": whole(1, low=0),
    "zero_quantized_weights": flag(),
    "zero_quantized_nontrainable_weights": flag(),
    "zero_quantized_gradients": flag(),
}

ZERO = Section(
    {
        "stage": whole(0, low=0),
        "contiguous_gradients": flag(True),
        "reduce_scatter": flag(True),
        "reduce_bucket_size": whole(500_000_000, low=0),
        "use_multi_rank_bucket_allreduce": flag(True),
        "allgather_partitions": flag(True),
        "allgather_bucket_size": whole(500_000_000, low=0),
        "overlap_comm": flag(None),
        "compute_grad_norm": flag(True, since="0.19.7"),
        "load_from_fp32_weights": flag(True),
        "elastic_checkpoint": flag(),
        "offload_param": part(OFFLOAD_PARAM, nullable=True),
        "offload_optimizer": part(OFFLOAD_OPTIMIZER, nullable=True),
        "zenflow": part(_ZENFLOW, since="0.17.5", nullable=True),
        "ignore_unused_parameters": flag(True),
        "legacy_stage1": flag(),
        "round_robin_gradients": flag(),
        "parameter_alignment": flag(since="0.19.7"),
        "log_trace_cache_warnings": flag(since="0.16.4"),
        "enable_sanity_checks": flag(since="0.17.6"),
        **_STAGE3,
        **_SENDING,
        **_OLD,
    },
    unknown="refused",
    strict=False,
    aliases=STAGE3_ALIASES,
)
