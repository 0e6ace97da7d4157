"""Broken and good ds_configs as data.

A case holds members of the top-level object, one a line; `complete` adds the usual ones that it does not name. `^`
stands before the key on whose line the finding is expected; without it the finding is of the whole file, on line 1.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

USUAL = {
    "train_micro_batch_size_per_gpu": "2",
    "gradient_accumulation_steps": "4",
    "gradient_clipping": "1.0",
    "bf16": '{"enabled": true}',
    "zero_optimization": '{"stage": 2}',
}
Z = "zero_optimization"
NONE: Mapping[str, Any] = MappingProxyType({})


class Broken(NamedTuple):
    """A config with one fault, and how it is told."""

    name: str
    members: str
    path: str
    words: str
    options: Mapping[str, Any] = NONE
    severity: str = "error"
    without: tuple[str, ...] = ()
    """Usual members that are left out."""


class Good(NamedTuple):
    """A config with neither error nor warning."""

    name: str
    members: str
    options: Mapping[str, Any] = NONE
    without: tuple[str, ...] = ()


def complete(members: str, without: tuple[str, ...] = ()) -> str:
    """The JSON text, still with its mark."""
    lines = [members] if members else []
    lines += [f'"{key}": {value}' for key, value in USUAL.items() if f'"{key}":' not in members and key not in without]
    return "{\n  " + ",\n  ".join(lines) + "\n}\n"


def zero(inside: str) -> str:
    """The member zero_optimization with its own members on lines of their own."""
    return f'"{Z}": {{\n    {inside}\n  }}'


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
    Broken("flag for a section", '^"bf16": true', "bf16", "needs an object"),
    Broken("bucket of nothing", zero('"stage": 2,\n    ^"reduce_bucket_size": 0'), f"{Z}.reduce_bucket_size",
           "above 0"),
    Broken("negative bucket", zero('"stage": 2,\n    ^"allgather_bucket_size": -5'), f"{Z}.allgather_bucket_size",
           "at least 0"),
    Broken("unknown device", zero('"stage": 3,\n    "offload_param": {^"device": "gpu"}'), f"{Z}.offload_param.device",
           "none, cpu or nvme"),
    Broken("ratio above 1", zero('"stage": 3, "offload_optimizer": {"device": "cpu",\n    ^"ratio": 1.5}'),
           f"{Z}.offload_optimizer.ratio", "at most 1"),
    Broken("unknown dtype", '^"communication_data_type": "fp8"', "communication_data_type", "fp16, bf16 or fp32"),
    Broken("number for a list", '"optimizer": {"type": "Adam", "params": {^"betas": 0.9}}', "optimizer.params.betas",
           "needs a list of numbers"),
    Broken("beta of 1", '"optimizer": {"type": "Adam", "params": {"betas": [0.9,\n  ^1.0]}}',
           "optimizer.params.betas[1]",
           "below 1"),
    Broken("loss scale window", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale_window": 0}',
           "fp16.loss_scale_window", "above 0"),
    # Other programs' names, and nesting.
    Broken("Trainer's clipping", '^"max_grad_norm": 0.5', "max_grad_norm", "name of it is `gradient_clipping`",
           without=("gradient_clipping",)),
    Broken("Megatron's batch", '^"micro_batch_size": 4', "micro_batch_size", "`train_micro_batch_size_per_gpu`",
           without=("train_micro_batch_size_per_gpu",)),
    Broken("size of AutoTP", '"tensor_parallel": {^"tp_size": 2}', "tensor_parallel.tp_size", "name of it is"),
    Broken("rate at the top", '^"learning_rate": 1e-4', "learning_rate", "reads `optimizer.params.lr`"),
    Broken("rate beside the type", '"optimizer": {"type": "AdamW",\n  ^"lr": 1e-4}', "optimizer.lr",
           "reads `optimizer.params.lr`"),
    Broken("stage beside it", '^"zero_stage": 3', "zero_stage", "reads `zero_optimization.stage`"),
    Broken("schedule by another name", '^"lr_scheduler": {"type": "WarmupLR"}', "lr_scheduler", "name of it is"),
    Broken("inside another", '^"deepspeed": {"zero_optimization": {"stage": 2}, "train_batch_size": 8}', "deepspeed",
           "stands inside `deepspeed`", without=tuple(USUAL)),
    Broken("misspelt pipeline key", zero('"stage": 1') + ',\n  "pipeline": {"stages": 2, ^"pipe_partitionned": false}',
           "pipeline.pipe_partitionned", "did you mean `pipe_partitioned`"),
    Broken("misspelt experts", '"expert_parallel": {"enabled": true, ^"autoep_sise": 8}', "expert_parallel.autoep_sise",
           "did you mean `autoep_size`"),
    Broken("nothing for clipping", '^"gradient_clipping": null', "gradient_clipping", "is null"),
    Broken("word for a scale", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale": "dynamic"}',
           "fp16.loss_scale", "needs a number"),
    Broken("device in capitals", zero('"stage": 2,\n    "offload_optimizer": {^"device": "CPU"}'),
           f"{Z}.offload_optimizer.device", "none, cpu or nvme"),
    Broken("three betas", '"optimizer": {"type": "AdamW", "params": {^"betas": [0.9, 0.95, 0.99]}}',
           "optimizer.params.betas", "has 3 numbers"),
    Broken("class of DeepSpeed", '"optimizer": {^"type": "FusedAdam"}', "optimizer.type", "did you mean AdamW"),
    Broken("printing every 0 steps", '^"steps_per_print": 0', "steps_per_print", "divided"),
    Broken("bucket beyond 64 bits", zero('"stage": 2,\n    ^"reduce_bucket_size": 1e30'), f"{Z}.reduce_bucket_size",
           "needs a whole number"),
    Broken("true for ZeRO", '^"zero_optimization": true', Z, "format of 2020", severity="warning"),
    # Schedules.
    Broken("rates for a cosine", '"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 9,\n'
           '  ^"warmup_min_lr": 1e-5}}', "scheduler.params.warmup_min_lr", "does not take it"),
    Broken("no schedule at all", '"scheduler": {^"type": "linear"}', "scheduler.type", "no schedule"),
    Broken("warmup with an exponent", '"scheduler": {"type": "WarmupLR", "params": {^"warmup_num_steps": 1e3}}',
           "scheduler.params.warmup_num_steps", "without point or exponent"),
    Broken("peak of its own", '"scheduler": {"type": "WarmupDecayLR", ^"params": {"total_num_steps": 100}}',
           "scheduler.params", "goes to 0.001", severity="warning"),
    Broken("two rates", '"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},\n  "scheduler": {"type": "WarmupLR",\n'
           '  "params": {^"warmup_max_lr": 3e-4}}', "scheduler.params.warmup_max_lr", "the schedule's counts",
           severity="warning"),
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
    Broken("no norm at stage 3", zero('"stage": 3,\n    ^"compute_grad_norm": false'),
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
    Broken("no fp32 masters",
           '"bf16": {"enabled": true, "bf16_optimizer_states": true, ^"bf16_master_weights_and_grads": true}',
           "bf16.bf16_master_weights_and_grads", "no fp32 copy", severity="warning"),
    Broken("param dtype against bf16", '"data_types": {^"param_dtype": "fp16"}', "data_types.param_dtype",
           "make it bf16"),
    Broken("accumulation by hand with overlap",
           zero('"stage": 1, "overlap_comm": true') + ',\n  ^"managed_gradient_accumulation": false',
           "managed_gradient_accumulation", "below ZeRO-2"),
    Broken("accumulation by hand with offload",
           zero('"stage": 2, "offload_optimizer": {"device": "cpu"}') + ',\n  ^"managed_gradient_accumulation": false',
           "managed_gradient_accumulation", "offload before", {"deepspeed": "0.19.4"}),
    Broken("part of torch's Adam offloaded",
           zero('"stage": 3, "offload_optimizer": {"device": "cpu", ^"ratio": 0.5}')
           + ',\n  "optimizer": {"type": "AdamW", "params": {"torch_adam": true}}',
           f"{Z}.offload_optimizer.ratio", "torch's", {"read_by": "deepspeed"}),
    Broken("part of Lion offloaded",
           zero('"stage": 3, "offload_optimizer": {"device": "cpu", ^"ratio": 0.5}')
           + ',\n  "optimizer": {"type": "Lion"}',
           f"{Z}.offload_optimizer.ratio", "Lion", {"read_by": "deepspeed"}),
    Broken("batch does not multiply", '^"train_batch_size": 20', "train_batch_size", "does not divide"),
    Broken("batch against the ranks", '^"train_batch_size": 32', "train_batch_size", "= 64", {"world_size": 8}),
    Broken("batch less than a sample a rank", '^"train_batch_size": 6', "train_batch_size", "does not divide",
           {"world_size": 4}, without=("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")),
    Broken("batch under tensor parallelism", '"tensor_parallel": {"autotp_size": 2},\n  ^"train_batch_size": 16',
           "train_batch_size", "counts the ranks of a replica"),
    Broken("LoRA and AutoTP", '"tensor_parallel": {^"autotp_size": 2}', "tensor_parallel.autotp_size", "adapters",
           {"method": "lora"}),
    Broken("tensor parallelism against the ranks", '"tensor_parallel": {^"autotp_size": 3}',
           "tensor_parallel.autotp_size",
           "does not divide 8 ranks", {"world_size": 8}),
    Broken("pipeline with stage 2", zero('^"stage": 2') + ',\n  "pipeline": {"stages": 4}', f"{Z}.stage",
           "a pipeline runs with 0 and 1"),
    Broken("max_grad_norm", '"optimizer": {"type": "AdamW", "params": {^"max_grad_norm": 1.0}}',
           "optimizer.params.max_grad_norm", "not a number of the optimizer"),
    Broken("no clipping", "", "gradient_clipping", "`gradient_clipping` is missing", severity="warning",
           without=("gradient_clipping",)),
    Broken("no batch size", "", "train_micro_batch_size_per_gpu", "neither `train_batch_size`", severity="warning",
           without=("train_micro_batch_size_per_gpu",)),
    Broken("no schedule length", '"scheduler": {"type": "WarmupDecayLR",\n  ^"params": {"warmup_num_steps": 5}}',
           "scheduler.params", "needs `total_num_steps`"),
    Broken("no metric", '"data_efficiency": {"data_sampling": {^"curriculum_learning": {"enabled": true}}}',
           "data_efficiency.data_sampling.curriculum_learning", "`curriculum_metrics` is missing"),
    Broken("misspelt schedule", '"scheduler": {^"type": "WarmupCosinLR", "params": {}}', "scheduler.type",
           "did you mean WarmupCosineLR"),
    Broken("no warmup", '"scheduler": {"type": "WarmupLR", "params": {^"warmup_num_steps": 0}}',
           "scheduler.params.warmup_num_steps", "since 0.19.3"),
    Broken("misspelt optimizer", '"optimizer": {^"type": "AdmW"}', "optimizer.type", "did you mean AdamW"),
    Broken("two compile passes", '"compile": {"deepcompile": true, ^"passes": ["autotp", "z1"]}', "compile.passes",
           "does not go with"),
    # What the engine refuses.
    Broken("untested optimizer", '"optimizer": {^"type": "SGD"}', "optimizer.type", "has not been tried with ZeRO"),
    Broken("Muon's reduction", zero('"stage": 3') + ',\n  "optimizer": {^"type": "Muon"}', "optimizer.type",
           "does not go with `reduce_scatter`"),
    Broken("Lamb's scale", '"zero_allow_untested_optimizer": true, "bf16": {"enabled": false},\n'
           '  "fp16": {"enabled": true, "loss_scale": 64}, "optimizer": {^"type": "Lamb"}', "optimizer.type",
           "dynamic"),
    Broken("scaled before", '^"prescale_gradients": true', "prescale_gradients", "not for ZeRO 2 and 3"),
    Broken("divided before", '^"gradient_predivide_factor": 2.0', "gradient_predivide_factor", "needs to be 1"),
    Broken("odd bucket", zero('"stage": 1,\n    ^"allgather_bucket_size": 5001'), f"{Z}.allgather_bucket_size", "even"),
    Broken("fp16 masters on the GPU", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true,\n'
           '  ^"fp16_master_weights_and_grads": true}', "fp16.fp16_master_weights_and_grads", "offloaded to the CPU"),
    Broken("fp32 sums without ZeRO", zero('"stage": 0') + ',\n  "data_types": {^"grad_accum_dtype": "fp32"}',
           "data_types.grad_accum_dtype", "without ZeRO"),
    Broken("ZenFlow on the GPU", zero('"stage": 2,\n    ^"zenflow": {"topk_ratio": 0.1}'), f"{Z}.zenflow",
           "offloaded to the CPU"),
    Broken("contiguous activations", '"activation_checkpointing": {^"contiguous_memory_optimization": true}',
           "activation_checkpointing.contiguous_memory_optimization", "`partition_activations`"),
    Broken("loss scale true", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale": true}',
           "fp16.loss_scale", "is true"),
    Broken("pipeline section with stage 3", zero('^"stage": 3') + ',\n  "pipeline": {"seed_layers": true}',
           f"{Z}.stage",
           "a pipeline runs with 0 and 1"),
    Broken("bf16 in quotes beside fp16", '"fp16": {"enabled": true},\n  "bf16": {^"enabled": "true"}', "bf16.enabled",
           "both enabled"),
    Broken("no ZeRO for the Trainer", "", Z, "which accelerate wants", {"read_by": "trainer"}, without=(Z,)),
    Broken("no ZeRO in a file for it", '"gradient_clipping": "auto"', Z, "which accelerate wants", severity="warning",
           without=(Z,)),
    # "auto".
    Broken("auto that nobody fills", zero('"stage": 2,\n    ^"allgather_bucket_size": "auto"'),
           f"{Z}.allgather_bucket_size", "neither the Trainer nor accelerate"),
    Broken("auto without a Trainer", '^"gradient_clipping": "auto"', "gradient_clipping", "DeepSpeed fills in none",
           {"read_by": "deepspeed"}),
    Broken("auto in a run of ours", '^"gradient_accumulation_steps": "auto"', "gradient_accumulation_steps",
           "run of this toolkit", {"read_by": "toolkit"}),
    Broken("auto loss scale", '"bf16": {"enabled": false},\n  "fp16": {"enabled": true, ^"loss_scale": "auto"}',
           "fp16.loss_scale", "neither the Trainer"),
    Broken("optimizer in a run of ours", '^"optimizer": {"type": "AdamW"}', "optimizer",
           "not read in a run of this toolkit",
           {"read_by": "toolkit"}),
    # What releases took away or got wrong.
    Broken("elasticity", '^"elasticity": {"enabled": false}', "elasticity", "removed in DeepSpeed 0.19.8"),
    Broken("amp", '^"amp": {"enabled": false}', "amp", "removed in DeepSpeed 0.19.8"),
    Broken("curriculum", '^"curriculum_learning": {}', "curriculum_learning", "removed in DeepSpeed 0.19.8"),
    Broken("MiCS", zero('"stage": 3,\n    ^"mics_shard_size": 8'), f"{Z}.mics_shard_size",
           "removed in DeepSpeed 0.19.7"),
    Broken("elasticity before", '^"elasticity": {"enabled": true}', "elasticity", "was removed in DeepSpeed 0.19.8",
           {"deepspeed": "0.19.6"}, severity="warning"),
    Broken("1-bit Adam", '"optimizer": {^"type": "OneBitAdam"}', "optimizer.type", "removed in DeepSpeed 0.19.7"),
    Broken("old offload", zero('"stage": 2,\n    ^"cpu_offload": true'), f"{Z}.cpu_offload", "deprecated",
           severity="warning"),
    Broken("threads of old", '"aio": {^"thread_count": 2}', "aio.thread_count", "is called `intra_op_parallelism`",
           severity="warning"),
    Broken("legacy stage 1", zero('"stage": 1,\n    ^"legacy_stage1": true'), f"{Z}.legacy_stage1", "gone since 0.5.9"),
    Broken("key of a later release",
           zero('"stage": 3, "offload_optimizer": {"device": "cpu",\n    ^"super_offload": true}'),
           f"{Z}.offload_optimizer.super_offload", "came with DeepSpeed 0.18.0", {"deepspeed": "0.17.4"}),
    Broken("wrong gradients of ZeRO-2", zero('^"stage": 2'), f"{Z}.stage", "#7718", {"deepspeed": "0.18.1"}),
    Broken("lost micro-batches", zero('"stage": 2,\n    ^"offload_optimizer": {"device": "cpu"}'),
           f"{Z}.offload_optimizer",
           "#7967", {"deepspeed": "0.18.9"}),
    Broken("bf16 stage 0", zero('^"stage": 0'), f"{Z}.stage", "#7837", {"deepspeed": "0.18.5"}),
    Broken("pipeline gradients",
           zero('"stage": 1') + ',\n  "pipeline": {"stages": 2},\n  ^"gradient_accumulation_steps": 4',
           "gradient_accumulation_steps", "#8152", {"deepspeed": "0.19.0"}),
    Broken("AutoTP checkpoints", zero('"stage": 3') + ',\n  "tensor_parallel": {^"autotp_size": 2}',
           "tensor_parallel.autotp_size", "#8168", {"deepspeed": "0.19.3"}),
    Broken("leaking micro-batch", zero('^"stage": 1') + ',\n  "data_types": {"grad_accum_dtype": "fp32"}', f"{Z}.stage",
           "#7985", {"deepspeed": "0.18.7"}),
    Broken("compile passes before", '"compile": {"deepcompile": true, ^"passes": ["z3"]}', "compile.passes",
           "came with DeepSpeed 0.18.9", {"deepspeed": "0.18.8"}),
    Broken("presets before", '"tensor_parallel": {"autotp_size": 2, ^"preset_model": "llama"}',
           "tensor_parallel.preset_model", "came with DeepSpeed 0.18.6", {"deepspeed": "0.18.5"}),
    Broken("leaf modules before", zero('"stage": 1,\n    ^"leaf_module": {"classes": ["A"]}'), f"{Z}.leaf_module",
           "came with DeepSpeed 0.18.0", {"deepspeed": "0.17.6"}),
    Broken("loss scale that was ignored", '"bf16": {"enabled": true, ^"loss_scale": 0}', "bf16.loss_scale",
           "scales no loss", {"deepspeed": "0.16.9"}, severity="warning"),
    Broken("misspelt fp16 key that was ignored", '"bf16": {"enabled": false}, "fp16": {^"hysterisis": 2}',
           "fp16.hysterisis", "did you mean `hysteresis`", {"deepspeed": "0.16.9"}),
    Broken("groups of one rate", '"scheduler": {^"type": "WarmupLR"}', "scheduler.type", "#8171",
           {"deepspeed": "0.19.3"}, severity="warning"),
    Broken("streams of a compiled step", zero('"stage": 2,\n    ^"overlap_comm": true'), f"{Z}.overlap_comm", "#8061",
           {"deepspeed": "0.19.2"}, severity="warning"),
    Broken("universal checkpoints", zero('"stage": 3') + ',\n  "checkpoint": {^"load_universal": true}',
           "checkpoint.load_universal", "#7585", {"deepspeed": "0.17.4"}),
)  # fmt: skip
