"""Broken and good ds_configs as data.

A case holds members of the top-level object, one a line; `complete` adds the usual ones that it does not name. `^` stands
before the key on whose line the finding is expected; without it the finding is of the whole file, on line 1.
"""

from typing import Any, NamedTuple

USUAL = {
    "train_micro_batch_size_per_gpu": "2",
    "gradient_accumulation_steps": "4",
    "gradient_clipping": "1.0",
    "bf16": '{"enabled": true}',
    "zero_optimization": '{"stage": 2}',
}
Z = "zero_optimization"


class Broken(NamedTuple):
    """A config with one fault, and how it is told."""

    name: str
    members: str
    path: str
    words: str
    options: dict[str, Any] = {}
    severity: str = "error"
    without: tuple[str, ...] = ()
    """Usual members that are left out."""


class Good(NamedTuple):
    """A config with neither error nor warning."""

    name: str
    members: str
    options: dict[str, Any] = {}
    without: tuple[str, ...] = ()


def complete(members: str, without: tuple[str, ...] = ()) -> str:
    """The JSON text, still with its mark."""
    lines = [members] if members else []
    lines += [f'"{key}": {value}' for key, value in USUAL.items() if f'"{key}":' not in members and key not in without]
    return "{\n  " + ",\n  ".join(lines) + "\n}\n"


def zero(inside: str) -> str:
    """The member zero_optimization with its own members on lines of their own."""
    return f'"{Z}": {{\n    {inside}\n  }}'


OFFLOADED = '"stage": 2,\n    "offload_optimizer": {"device": "cpu"}'

BROKEN = (
    # Unknown and misplaced keys.
    Broken("misspelt clipping", '^"gradient_cliping": 1.0', "gradient_cliping", "did you mean `gradient_clipping`"),
    Broken("capitals", '^"Gradient_Clipping": 1.0', "Gradient_Clipping", "did you mean `gradient_clipping`"),
    Broken("misspelt batch", '^"train_micro_batch_size_per_gpus": 1', "train_micro_batch_size_per_gpus",
           "did you mean `train_micro_batch_size_per_gpu`"),
    Broken("misspelt accumulation", '^"gradient_accumulation_step": 8', "gradient_accumulation_step",
           "did you mean `gradient_accumulation_steps`"),
    Broken("hyphens", '^"wall-clock-breakdown": true', "wall-clock-breakdown", "did you mean `wall_clock_breakdown`"),
    Broken("misspelt section", '^"zero_optimisation": {"stage": 3}', "zero_optimisation",
           "did you mean `zero_optimization`"),
    Broken("misspelt stage key", zero('"stage": 3,\n    ^"overlap_com": true'), f"{Z}.overlap_com",
           "did you mean `overlap_comm`"),
    Broken("unknown key of zero", zero('"stage": 2,\n    ^"flavour": 1'), f"{Z}.flavour", "unknown key"),
    Broken("misspelt offload key", zero('"stage": 3,\n    "offload_param": {"device": "cpu",\n    ^"pin_memry": true}'),
           f"{Z}.offload_param.pin_memry", "did you mean `pin_memory`"),
    Broken("stage at the top", '^"stage": 3', "stage", "belongs inside `zero_optimization`"),
    Broken("offload at the top", '^"offload_optimizer": {"device": "cpu"}', "offload_optimizer",
           "belongs inside `zero_optimization`"),
    Broken("clipping inside zero", zero('"stage": 2,\n    ^"gradient_clipping": 0.5'), f"{Z}.gradient_clipping",
           "belongs at the top level"),
    Broken("unknown in fp16", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scal": 0}',
           "fp16.loss_scal", "did you mean `loss_scale`"),
    Broken("loss scale in bf16", '"bf16": {"enabled": true,\n  ^"loss_scale": 0}', "bf16.loss_scale", "scales no loss"),
    Broken("old compile", '"compile": {^"backend": "inductor"}', "compile.backend", "engine.compile()"),
    Broken("unknown section", '^"quantum": {"enabled": true}', "quantum", "unknown key", severity="warning"),
    Broken("misspelt Adam number", '"optimizer": {"type": "AdamW", "params": {"lr": 1e-4,\n  ^"weight_decy": 0.1}}',
           "optimizer.params.weight_decy", "did you mean `weight_decay`"),
    Broken("misspelt activation key", '"activation_checkpointing": {^"cpu_checkpoint": true}',
           "activation_checkpointing.cpu_checkpoint", "did you mean `cpu_checkpointing`"),
    Broken("key given twice", '"steps_per_print": 1,\n  ^"steps_per_print": 2', "steps_per_print", "given twice"),
    Broken("alias given too", zero('"stage": 3, "stage3_max_live_parameters": 1,\n    ^"max_live_parameters": 2'),
           f"{Z}.max_live_parameters", "another name of `stage3_max_live_parameters`"),
    # Types and ranges.
    Broken("text for a flag", '^"wall_clock_breakdown": "false"', "wall_clock_breakdown", "needs true or false"),
    Broken("text for a number", '^"gradient_clipping": "1.0"', "gradient_clipping", "needs a number"),
    Broken("fraction of a sample", '^"train_micro_batch_size_per_gpu": 1.5', "train_micro_batch_size_per_gpu",
           "needs a whole number"),
    Broken("zero samples", '^"train_micro_batch_size_per_gpu": 0', "train_micro_batch_size_per_gpu", "above 0"),
    Broken("negative accumulation", '^"gradient_accumulation_steps": -1', "gradient_accumulation_steps", "above 0"),
    Broken("negative clipping", '^"gradient_clipping": -1.0', "gradient_clipping", "at least 0"),
    Broken("stage 4", zero('^"stage": 4'), f"{Z}.stage", "0, 1, 2 or 3"),
    Broken("stage in words", zero('^"stage": "three"'), f"{Z}.stage", "needs a whole number"),
    Broken("list for a section", '^"bf16": [true]', "bf16", "needs an object"),
    Broken("flag for a section", '^"fp16": true', "fp16", "needs an object"),
    Broken("bucket of nothing", zero('"stage": 2,\n    ^"reduce_bucket_size": 0'), f"{Z}.reduce_bucket_size", "above 0"),
    Broken("negative bucket", zero('"stage": 2,\n    ^"allgather_bucket_size": -5'), f"{Z}.allgather_bucket_size",
           "at least 0"),
    Broken("unknown device", zero('"stage": 3,\n    "offload_param": {^"device": "gpu"}'), f"{Z}.offload_param.device",
           "none, cpu or nvme"),
    Broken("ratio above 1", zero('"stage": 3, "offload_optimizer": {"device": "cpu",\n    ^"ratio": 1.5}'),
           f"{Z}.offload_optimizer.ratio", "at most 1"),
    Broken("unknown dtype", '^"communication_data_type": "fp8"', "communication_data_type", "fp16, bf16 or fp32"),
    Broken("number for a list", '"optimizer": {"type": "Adam", "params": {^"betas": 0.9}}', "optimizer.params.betas",
           "needs a list of numbers"),
    Broken("beta of 1", '"optimizer": {"type": "Adam", "params": {"betas": [0.9,\n  ^1.0]}}', "optimizer.params.betas[1]",
           "below 1"),
    Broken("loss scale window", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale_window": 0}',
           "fp16.loss_scale_window", "above 0"),
    # Conflicts.
    Broken("fp16 and bf16", '"fp16": {"enabled": true},\n  "bf16": {^"enabled": true}', "bf16.enabled", "both enabled"),
    Broken("weights offloaded at stage 2", zero('"stage": 2,\n    ^"offload_param": {"device": "cpu"}'),
           f"{Z}.offload_param", "ZeRO-3 alone"),
    Broken("optimizer offloaded at stage 0", zero('"stage": 0,\n    ^"offload_optimizer": {"device": "cpu"}'),
           f"{Z}.offload_optimizer", "the stage is 0"),
    Broken("nvme without a path", zero('"stage": 3,\n    "offload_optimizer": {^"device": "nvme"}'),
           f"{Z}.offload_optimizer.device", "`nvme_path` is missing"),
    Broken("nvme at stage 1",
           zero('"stage": 1,\n    "offload_optimizer": {"nvme_path": "/nvme",\n    ^"device": "nvme"}'),
           f"{Z}.offload_optimizer.device", "ZeRO-3 alone"),
    Broken("partial offload at stage 2", zero('"stage": 2, "offload_optimizer": {"device": "cpu",\n    ^"ratio": 0.5}'),
           f"{Z}.offload_optimizer.ratio", "ZeRO-3 alone"),
    Broken("hpz at stage 2", zero('"stage": 2,\n    ^"zero_hpz_partition_size": 8'), f"{Z}.zero_hpz_partition_size",
           "for ZeRO-3", severity="warning"),
    Broken("quantized at stage 1", zero('"stage": 1,\n    ^"zero_quantized_gradients": true'),
           f"{Z}.zero_quantized_gradients", "for ZeRO-3", severity="warning"),
    Broken("no norm at stage 3", zero('"stage": 3, "stage3_gather_16bit_weights_on_model_save": true,\n    ^"compute_grad_norm": false'),
           f"{Z}.compute_grad_norm", "for ZeRO 1 and 2"),
    Broken("no norm but clipping", zero('"stage": 2,\n    ^"compute_grad_norm": false'), f"{Z}.compute_grad_norm",
           "needs the norm"),
    Broken("sum with stage 3", zero('"stage": 3') + ',\n  ^"gradient_allreduce_op": "sum"', "gradient_allreduce_op",
           "not for ZeRO-3"),
    Broken("master weights at stage 0",
           zero('"stage": 0') + ',\n  "bf16": {"enabled": true, ^"bf16_master_weights_and_grads": true}',
           "bf16.bf16_master_weights_and_grads", "needs ZeRO stage"),
    Broken("states without masters", '"bf16": {"enabled": true, ^"bf16_optimizer_states": true}',
           "bf16.bf16_optimizer_states", "needs `bf16_master_weights_and_grads`"),
    Broken("no fp32 masters", '"bf16": {"enabled": true, ^"bf16_master_weights_and_grads": true}',
           "bf16.bf16_master_weights_and_grads", "no fp32 copy", severity="warning"),
    Broken("param dtype against bf16", '"data_types": {^"param_dtype": "fp16"}', "data_types.param_dtype", "make it bf16"),
    Broken("accumulation by hand with overlap",
           zero('"stage": 3') + ',\n  ^"managed_gradient_accumulation": false', "managed_gradient_accumulation", "ZeRO-2"),
    Broken("batch does not multiply", '^"train_batch_size": 20', "train_batch_size", "does not divide"),
    Broken("batch against the ranks", '^"train_batch_size": 32', "train_batch_size", "= 64", {"world_size": 8}),
    Broken("batch less than a sample a rank", '^"train_batch_size": 6', "train_batch_size", "does not divide",
           {"world_size": 4}, without=("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")),
    Broken("batch under tensor parallelism", '"tensor_parallel": {"autotp_size": 2},\n  ^"train_batch_size": 16',
           "train_batch_size", "counts the ranks of a replica"),
    Broken("tensor parallelism against the ranks", '"tensor_parallel": {^"autotp_size": 3}', "tensor_parallel.autotp_size",
           "does not divide 8 ranks", {"world_size": 8}),
    Broken("pipeline with stage 2", zero('^"stage": 2') + ',\n  "pipeline": {"stages": 4}', f"{Z}.stage",
           "a pipeline runs with 0 and 1"),
    Broken("max_grad_norm", '"optimizer": {"type": "AdamW", "params": {^"max_grad_norm": 1.0}}',
           "optimizer.params.max_grad_norm", "not a number of the optimizer"),
    Broken("no clipping", "", "", "`gradient_clipping` is missing", severity="warning", without=("gradient_clipping",)),
    Broken("no batch size", "", "", "neither `train_batch_size`", severity="warning",
           without=("train_micro_batch_size_per_gpu",)),
    Broken("no schedule length", '"scheduler": {"type": "WarmupDecayLR",\n  ^"params": {"warmup_num_steps": 5}}',
           "scheduler.params", "needs `total_num_steps`"),
    Broken("misspelt schedule", '"scheduler": {^"type": "WarmupCosinLR", "params": {}}', "scheduler.type",
           "did you mean WarmupCosineLR"),
    Broken("no warmup", '"scheduler": {"type": "WarmupLR", "params": {^"warmup_num_steps": 0}}',
           "scheduler.params.warmup_num_steps", "since 0.19.6"),
    Broken("misspelt optimizer", '"optimizer": {^"type": "AdmW"}', "optimizer.type", "did you mean AdamW"),
    Broken("two compile passes", '"compile": {"deepcompile": true, ^"passes": ["autotp", "z1"]}', "compile.passes",
           "does not go with"),
    # "auto".
    Broken("auto that nobody fills", zero('"stage": 2,\n    ^"allgather_bucket_size": "auto"'),
           f"{Z}.allgather_bucket_size", "neither the Trainer nor accelerate"),
    Broken("auto without a Trainer", '^"gradient_clipping": "auto"', "gradient_clipping", "DeepSpeed fills in none",
           {"read_by": "deepspeed"}),
    Broken("auto in a run of ours", '^"gradient_accumulation_steps": "auto"', "gradient_accumulation_steps",
           "run of this toolkit", {"read_by": "toolkit"}),
    Broken("auto loss scale", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale": "auto"}',
           "fp16.loss_scale", "neither the Trainer"),
    Broken("optimizer in a run of ours", '^"optimizer": {"type": "AdamW"}', "optimizer", "not read in a run of this toolkit",
           {"read_by": "toolkit"}),
    # What releases took away or got wrong.
    Broken("elasticity", '^"elasticity": {"enabled": false}', "elasticity", "removed in DeepSpeed 0.19.8"),
    Broken("amp", '^"amp": {"enabled": false}', "amp", "removed in DeepSpeed 0.19.8"),
    Broken("curriculum", '^"curriculum_learning": {}', "curriculum_learning", "removed in DeepSpeed 0.19.8"),
    Broken("MiCS", zero('"stage": 3,\n    ^"mics_shard_size": 8'), f"{Z}.mics_shard_size", "removed in DeepSpeed 0.19.7"),
    Broken("elasticity before", '^"elasticity": {"enabled": true}', "elasticity", "was removed in DeepSpeed 0.19.8",
           {"deepspeed": "0.19.6"}, severity="warning"),
    Broken("1-bit Adam", '"optimizer": {^"type": "OneBitAdam"}', "optimizer.type", "removed in DeepSpeed 0.19.7"),
    Broken("old offload", zero('"stage": 2,\n    ^"cpu_offload": true'), f"{Z}.cpu_offload", "deprecated",
           severity="warning"),
    Broken("legacy stage 1", zero('"stage": 1,\n    ^"legacy_stage1": true'), f"{Z}.legacy_stage1", "gone since 0.5.9"),
    Broken("key of a later release", zero('"stage": 2,\n    ^"zenflow": {"topk_ratio": 0.1}'), f"{Z}.zenflow",
           "came with DeepSpeed 0.17.5", {"deepspeed": "0.17.2"}),
    Broken("wrong gradients of ZeRO-2", zero('^"stage": 2'), f"{Z}.stage", "#7718", {"deepspeed": "0.18.1"}),
    Broken("lost micro-batches", zero('"stage": 2,\n    ^"offload_optimizer": {"device": "cpu"}'), f"{Z}.offload_optimizer",
           "#7967", {"deepspeed": "0.18.9"}),
    Broken("bf16 stage 0", zero('^"stage": 0'), f"{Z}.stage", "#7837", {"deepspeed": "0.18.5"}),
    Broken("pipeline gradients", zero('"stage": 1') + ',\n  "pipeline": {"stages": 2},\n  ^"gradient_accumulation_steps": 4',
           "gradient_accumulation_steps", "#8152", {"deepspeed": "0.19.0"}),
    Broken("AutoTP checkpoints", zero('"stage": 3') + ',\n  "tensor_parallel": {^"autotp_size": 2}',
           "tensor_parallel.autotp_size", "#8168", {"deepspeed": "0.19.3"}),
    Broken("leaking micro-batch", zero('^"stage": 1') + ',\n  "data_types": {"grad_accum_dtype": "fp32"}', f"{Z}.stage",
           "#7985", {"deepspeed": "0.18.7"}),
    Broken("universal checkpoints", zero('"stage": 3') + ',\n  "checkpoint": {^"load_universal": true}',
           "checkpoint.load_universal", "#7585", {"deepspeed": "0.17.4"}),
)  # fmt: skip

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
    Good("offload to nowhere", zero('"stage": 1, "offload_param": {"device": "none"}, "offload_optimizer": {"device": "none"}')),
    Good("all on the host", zero(f'"stage": 3, {_SAVES}, "offload_optimizer": {{"device": "cpu"}}, "offload_param": {{"device": "cpu"}}')),
    Good("all on a disk", zero('"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/nvme", "buffer_count": 5,'
         '"buffer_size": 1e8, "max_in_cpu": 1e9}, "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"}')
         + ', "aio": {"block_size": 262144, "queue_depth": 32, "thread_count": 1, "single_submit": false}'),
    Good("partial offload", zero('"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.3}')),
    Good("super offload", zero('"stage": 3, "offload_optimizer": {"device": "cpu", "super_offload": true}')),
    Good("ZeRO++", zero('"stage": 3, "zero_quantized_weights": true, "zero_hpz_partition_size": 8,'
         '"zero_quantized_gradients": true'), {"world_size": 16}),
    Good("short names of stage 3", zero('"stage": 3, "max_live_parameters": 0, "max_reuse_distance": 0, "sub_group_size": 0')),
    Good("sizes as 5e8", zero('"stage": 2, "allgather_bucket_size": 5e8, "reduce_bucket_size": 5e8')),
    Good("null is left out", zero('"stage": 2, "overlap_comm": null, "offload_param": null')),
    Good("autocast", '"bf16": {"enabled": false}, "torch_autocast": {"enabled": true, "dtype": "bfloat16"}'),
    Good("AutoTP", '"tensor_parallel": {"autotp_size": 2, "preset_model": "llama"}', {"world_size": 4}),
    Good("pipeline", zero('"stage": 1') + ', "pipeline": {"stages": 2, "pipe_partitioned": false}', {"world_size": 4}),
    Good("compiled", zero('"stage": 3') + ', "compile": {"deepcompile": true, "passes": ["z3"]}'),
    Good("activation checkpointing", '"activation_checkpointing": {"partition_activations": true, "number_checkpoints": 4}'),
    Good("own optimizer and schedule", '"optimizer": {"type": "AdamW", "params": {"lr": 3e-5, "betas": [0.9, 0.95],'
         '"eps": 1e-8, "weight_decay": 0.1, "torch_adam": true}}, "scheduler": {"type": "WarmupCosineLR",'
         '"params": {"total_num_steps": 100, "warmup_num_steps": 10}}'),
    Good("torch's SGD", '"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}'),
    Good("one cycle", '"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-5, "cycle_max_lr": 1e-3}}'),
    Good("monitors", '"tensorboard": {"enabled": true, "output_path": "logs"}, "csv_monitor": {"enabled": false},'
         '"wandb": {"enabled": false, "project": "p"}'),
    Good("profilers", '"flops_profiler": {"enabled": true, "profile_step": 2}, "comms_logger": {"enabled": true}'),
    Good("checkpoints", '"checkpoint": {"tag_validation": "Warn", "load_universal": true, "use_node_local_storage": true}'),
    Good("data efficiency", '"data_efficiency": {"enabled": true, "data_sampling": {"curriculum_learning": {"enabled": true}}}'),
    Good("autotuning", '"autotuning": {"enabled": true, "fast": false, "arg_mappings": {"a": "--b"}}'),
    Good("comments as keys", '"_comment": "ours", "//": "more"'),
    Good("printing", '"steps_per_print": 2000, "wall_clock_breakdown": false, "dump_state": false'),
    Good("Trainer, stage 0", _AUTO + ', ' + zero('"stage": 0, "round_robin_gradients": true')),
    Good("Trainer, stage 2, offloaded", _AUTO + ', "zero_allow_untested_optimizer": true, ' + zero(OFFLOADED)),
    Good("Trainer, stage 3", f"{_AUTO}, {_STAGE3}, {_ADAM}"),
    Good("Trainer, warmup", f'{_AUTO}, {_STAGE3}, "scheduler": {{"type": "WarmupDecayLR", "params": {{"warmup_min_lr": "auto",'
         '"warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"}}'),
    Good("Trainer, both said", _AUTO + ', "comms_config": {"verbose": false}', {"read_by": "trainer"}),
    Good("an old release without its faults", zero('"stage": 1'), {"deepspeed": "0.18.4"},
         without=("gradient_accumulation_steps",)),
)  # fmt: skip
