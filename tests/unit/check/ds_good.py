"""Good ds_configs as data; see ds_cases.py for how one is written."""

from unit.check.ds_cases import Good, Z, zero

_OFFLOADED = '"stage": 2, "offload_optimizer": {"device": "cpu"}'
_FILLED = '"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"'
_AUTO = f'{_FILLED}, "gradient_clipping": "auto", "bf16": {{"enabled": "auto"}}, "fp16": {{"enabled": "auto"}}'
_ADAM = (
    '"optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}}'
)
_STAGE3 = zero(
    '"stage": 3, "overlap_comm": true, "sub_group_size": 1e9, "reduce_bucket_size": "auto",\n'
    '"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto",\n'
    '"stage3_gather_16bit_weights_on_model_save": true'
)
_SAVES = '"stage3_gather_16bit_weights_on_model_save": true'

GOOD = (
    Good("the usual", ""),
    *(Good(f"stage {stage}", zero(f'"stage": {stage}')) for stage in range(4)),
    Good("quoted stage, which pydantic converts", zero('"stage": "2"')),
    Good("no section of ZeRO", "", without=(Z,)),
    Good("fp32", '"bf16": {"enabled": false}'),
    Good("fp16, dynamic scale", '"bf16": {"enabled": false}, "fp16": {"enabled": true, "loss_scale": 0}'),
    Good("fp16, static scale", '"bf16": {"enabled": false}, "fp16": {"enabled": true, "loss_scale": 128.0}'),
    Good("bfloat16, the old name", '"bfloat16": {"enabled": true}', without=("bf16",)),
    Good("no clipping, said so", '"gradient_clipping": 0'),
    Good("batch that multiplies", '"train_batch_size": 64', {"world_size": 8}),
    Good("batch, ranks unknown", '"train_batch_size": 64'),
    Good("total only", '"train_batch_size": 64', {"world_size": 8},
         without=("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")),
    Good("micro-batch only", "", without=("gradient_accumulation_steps",)),
    Good("sequence parallel", '"sequence_parallel_size": 4, "train_batch_size": 16', {"world_size": 8}),
    Good("offloaded optimizer", zero('"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": true}')),
    Good("offload to nowhere", zero('"stage": 1, "offload_param": {"device": "none"}, '
         '"offload_optimizer": {"device": "none"}')),
    Good("all on the host", zero(f'"stage": 3, {_SAVES}, "offload_param": {{"device": "cpu"}}, '
         '"offload_optimizer": {"device": "cpu"}')),
    Good("all on a disk",
           zero('"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/nvme", "buffer_count": 5,'
         '"buffer_size": 1e8, "max_in_cpu": 1e9}, "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"}')
         + ', "aio": {"block_size": 262144, "queue_depth": 32, "intra_op_parallelism": 1, "single_submit": false}'),
    Good("partial offload", zero('"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.3}')),
    Good("super offload", zero('"stage": 3, "offload_optimizer": {"device": "cpu", "super_offload": true}')),
    Good("ZeRO++", zero('"stage": 3, "zero_quantized_weights": true, "zero_hpz_partition_size": 8,'
         '"zero_quantized_gradients": true'), {"world_size": 16}),
    Good("short names of stage 3",
           zero('"stage": 3, "max_live_parameters": 0, "max_reuse_distance": 0, "sub_group_size": 0')),
    Good("sizes as 5e8", zero('"stage": 2, "allgather_bucket_size": 5e8, "reduce_bucket_size": 5e8')),
    Good("null is left out", zero('"stage": 2, "overlap_comm": null, "offload_param": null')),
    Good("autocast", '"bf16": {"enabled": false}, "torch_autocast": {"enabled": true, "dtype": "bfloat16"}'),
    Good("AutoTP", '"tensor_parallel": {"autotp_size": 2, "preset_model": "llama"}', {"world_size": 4}),
    Good("pipeline", zero('"stage": 1') + ', "pipeline": {"stages": 2, "pipe_partitioned": false}', {"world_size": 4}),
    Good("compiled", zero('"stage": 3') + ', "compile": {"deepcompile": true, "passes": ["z3"]}'),
    Good("activation checkpointing",
           '"activation_checkpointing": {"partition_activations": true, "number_checkpoints": 4}'),
    Good("own optimizer and schedule", '"optimizer": {"type": "AdamW", "params": {"lr": 3e-5, "betas": [0.9, 0.95],'
         '"eps": 1e-8, "weight_decay": 0.1, "torch_adam": true}}, "scheduler": {"type": "WarmupCosineLR",'
         '"params": {"total_num_steps": 100, "warmup_num_steps": 10}}'),
    Good("torch's SGD", '"zero_allow_untested_optimizer": true,'
         '"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}'),
    Good("one cycle", '"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-5, "cycle_max_lr": 1e-3}}'),
    Good("one cycle of torch's", '"scheduler": {"type": "OneCycleLR", "params": {"max_lr": 1e-3, "total_steps": 100}}'),
    Good("monitors", '"tensorboard": {"enabled": true, "output_path": "logs"}, "csv_monitor": {"enabled": false},'
         '"wandb": {"enabled": false, "project": "p"}'),
    Good("profilers", '"flops_profiler": {"enabled": true, "profile_step": 2}, "comms_logger": {"enabled": true}'),
    Good("checkpoints",
           '"checkpoint": {"tag_validation": "Warn", "load_universal": true, "use_node_local_storage": true}'),
    Good("data efficiency", '"data_efficiency": {"enabled": true, "data_sampling": '
         '{"curriculum_learning": {"enabled": true, "curriculum_metrics": {"seqlen": {}}}}}'),
    Good("autotuning", '"autotuning": {"enabled": true, "fast": false, "arg_mappings": {"a": "--b"}}'),
    Good("comments as keys", '"_comment": "ours", "//": "more"'),
    Good("printing", '"steps_per_print": 2000, "wall_clock_breakdown": false, "dump_state": false'),
    Good("Trainer, stage 0", _AUTO + ', ' + zero('"stage": 0, "round_robin_gradients": true')),
    Good("Trainer, stage 2, offloaded", _AUTO + ', "zero_allow_untested_optimizer": true, ' + zero(_OFFLOADED)),
    Good("Trainer, stage 3", f"{_AUTO}, {_STAGE3}, {_ADAM}"),
    Good("Trainer, warmup", f'{_AUTO}, {_STAGE3}, "scheduler": {{"type": "WarmupDecayLR", "params": {{'
         '"warmup_min_lr": "auto",'
         '"warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"}}'),
    Good("Trainer, both said", _AUTO + ', "comms_config": {"verbose": false}', {"read_by": "trainer"}),
    Good("schedule and optimizer agree", '"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},'
         '"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 1e-4, "total_num_steps": 100}}'),
    Good("optimizer without numbers", '"optimizer": {"type": "adamw", "params": null}'),
    Good("experts", zero('"stage": 1') + ', "expert_parallel": {"enabled": true, "load_balance_coeff": null}'),
    Good("numbers in quotes of ZeRO", zero('"stage": "2", "reduce_bucket_size": "500000000", "overlap_comm": "true"')),
    Good("bucket of 0 while it was taken", zero('"stage": 1, "reduce_bucket_size": 0'), {"deepspeed": "0.19.5"}),
    Good("fp32 sums while they were taken", zero('"stage": 0') + ', "data_types": {"grad_accum_dtype": "fp32"}',
         {"deepspeed": "0.17.4"}),
    Good("bf16 without ZeRO before its fault", zero('"stage": 0'), {"deepspeed": "0.17.5"}),
    Good("threads by their old name", '"aio": {"thread_count": 2}', {"deepspeed": "0.16.3"}),
    Good("no section of ZeRO, which the autotuner puts in",
         '"gradient_accumulation_steps": "auto", "autotuning": {"enabled": true}', without=(Z,)),
    Good("accumulation by hand at stage 3", zero('"stage": 3') + ', "managed_gradient_accumulation": false'),
    Good("overlap of stage 3", zero('"stage": 3, "overlap_comm": true'), {"deepspeed": "0.19.2"}),
    Good("WarmupLR with its peak", zero('"stage": 1') + ', "scheduler": {"type": "WarmupLR",'
         '"params": {"warmup_max_lr": 1e-4}}', {"deepspeed": "0.19.3"}),
    Good("pipeline before its fault", zero('"stage": 1') + ', "pipeline": {"stages": 2}', {"deepspeed": "0.18.2"}),
    Good("an old release without its faults", zero('"stage": 1'), {"deepspeed": "0.18.4"},
         without=("gradient_accumulation_steps",)),
)  # fmt: skip
