"""What each rule says, in one line: for SARIF's list of rules, and for the reference that is made of it."""

from typing import Literal, NamedTuple

from toolkit.check.finding import Severity

Subject = Literal[
    "any file", "ds_config.json", "accelerate YAML", "recipe of another trainer", "recipe.yaml, plan.json", "run folder"
]


class RuleText(NamedTuple):
    """One rule in words."""

    subject: Subject
    """What kind of file it looks at."""
    severities: tuple[Severity, ...]
    """Those that a finding of it can have, worst first."""
    says: str
    """What it finds."""


_ERROR: tuple[Severity, ...] = ("error",)
_WARNING: tuple[Severity, ...] = ("warning",)
_NOTE: tuple[Severity, ...] = ("note",)
_DEPENDS: tuple[Severity, ...] = ("error", "warning")
_DEPENDS_ON_READER: tuple[Severity, ...] = ("error", "note")

_OF_ANY = {
    "byte-order-mark": (_DEPENDS_ON_READER, "A mark before the first brace, which Python's json refuses."),
    "comma": (_DEPENDS_ON_READER, "A comma too many, or none at the end of a line; the rest is checked all the same."),
    "comment": (_DEPENDS_ON_READER, "Comments in JSON: DeepSpeed's own reader takes them, Python's does not."),
    "deprecated-key": (_WARNING, "A key that is still read under its old name, and the name that takes its place."),
    "encoding": (_ERROR, "A text that is not UTF-8."),
    "misplaced-key": (_ERROR, "A known key in the wrong section."),
    "not-finite": (_DEPENDS, "NaN or Infinity, which Python's json takes and other readers do not."),
    "out-of-range": (_ERROR, "A number outside the range that its reader takes."),
    "repeated-key": (_ERROR, "A key that is there twice, or beside another name of it."),
    "syntax": (_ERROR, "The file is no JSON or YAML, or holds no mapping of keys."),
    "too-new-key": (_DEPENDS, "A key that came with a later release than the one asked about."),
    "unknown-key": (_DEPENDS, "A key that nobody reads, with the nearest known one; an error where it is refused."),
    "wrong-type": (_ERROR, "A value of another type than the key takes."),
    "wrong-value": (_ERROR, "A word that is none of the closed set, or a value that the model of the file refuses."),
}
_OF_DS_CONFIG = {
    "accumulation-dtype": (_ERROR, "`grad_accum_dtype` other than the run's own type, without ZeRO."),
    "activation-checkpointing": (_ERROR, "Contiguous checkpoints without what they need beside them."),
    "allreduce-sum": (_ERROR, "`gradient_allreduce_op: sum` with ZeRO-3, ZenFlow or DeepCompile."),
    "auto": (("error", "warning", "note"), '"auto" that nobody fills in, or only under another name, or the Trainer.'),
    "autocast-and-fp16": (_WARNING, "`torch_autocast` beside fp16, whose weights are rounded already."),
    "autocast-dtype": (_WARNING, "`torch_autocast` without `dtype`: torch takes fp16 on GPUs."),
    "autotp-and-peft": (("error", "note"), "Tensor parallelism (AutoTP) removes LoRA adapters without a word."),
    "batch-arithmetic": (_ERROR, "`train_batch_size` is not micro-batch x accumulation x replicas."),
    "batch-under-tp": (_ERROR, "`train_batch_size` with tensor parallelism, where DeepSpeed miscounts the replicas."),
    "clipping-default": (("error", "warning", "note"), "Clipping left to a default that went from 0 to 1.0 in 0.19.3."),
    "compile-offload": (_ERROR, "Two of DeepCompile's offloads at once."),
    "compile-passes": (_ERROR, "DeepCompile's pass autotp beside other passes."),
    "data-efficiency": (_ERROR, "A curriculum without its metrics, dynamic batches without a number of tokens."),
    "degree": (_ERROR, "A parallel size that does not divide the ranks, or two that contradict each other."),
    "fp16-and-bf16": (_ERROR, "fp16 and bf16 both enabled."),
    "fp32": (_NOTE, "Neither bf16 nor fp16 is enabled: training is in fp32."),
    "grad-norm": (_ERROR, "`compute_grad_norm: false` where the norm is needed, or the stage always computes it."),
    "ignored-key": (("warning", "note"), "A key of another tool that DeepSpeed takes for nothing."),
    "known-bad": (("error", "warning", "note"), "A fault of the release that these settings meet, with its issue."),
    "loss-scale": (_WARNING, "A static loss scale of fp16 that scales nothing."),
    "master-weights": (_ERROR, "States in 16 bits without the stage or the offload that they need."),
    "max-grad-norm": (_ERROR, "`max_grad_norm` among the optimizer's numbers, which DeepSpeed refuses."),
    "memory": (("error", "note"), "Whether the model fits, with `--model` and `--cluster`."),
    "newer-release": (_NOTE, "The release is newer than the tables of this check."),
    "no-batch-size": (_DEPENDS, "Neither a global batch nor a micro-batch."),
    "no-ds-config": (_WARNING, "None of the keys is one of DeepSpeed's."),
    "no-fp32-master": (_WARNING, "No fp32 copy of bf16 weights: small updates are lost."),
    "no-zero": (_DEPENDS, "No section `zero_optimization` in a file that the Trainer reads."),
    "nvme-path": (_ERROR, "Offload to a disk without a path."),
    "offload-stage": (_DEPENDS, "Offload that the ZeRO stage does not have."),
    "optimizer": (_DEPENDS, "An optimizer that nobody has, or that its section does not name."),
    "param-dtype": (_ERROR, "`data_types.param_dtype` against the sections fp16 and bf16."),
    "partial-offload": (_ERROR, "`offload_optimizer.ratio` below 1 with an optimizer that is not DeepSpeed's Adam."),
    "pipeline-stage": (_ERROR, "A pipeline with ZeRO-2 or 3."),
    "prescale": (_ERROR, "Prescaled gradients with ZeRO 2 and 3, which scatter them."),
    "removed-key": (_DEPENDS, "A key or optimizer that a release took away, and what there is instead."),
    "saves-no-weights": (_NOTE, "ZeRO-3 that gathers no weights for saving: the Trainer then writes none."),
    "scheduler": (_DEPENDS, "A schedule that nobody has, lacks a number, or warms up longer than it runs."),
    "unmanaged-accumulation": (_ERROR, "Accumulation left to the script, with what does not go with it."),
    "unread-section": (_ERROR, "`optimizer` or `scheduler` in a file of this toolkit, which builds both itself."),
    "untested-optimizer": (
        _ERROR,
        "An optimizer that DeepSpeed has not tried with ZeRO, and no key that allows it.",
    ),
    "zenflow": (_ERROR, "ZenFlow without the offload or the overlap that it needs."),
    "zeropp-stage": (_WARNING, "A key of ZeRO++ below stage 3, where it does nothing."),
}
_OF_ACCELERATE = {
    "beside-ds-config": (_ERROR, "A key that belongs in the DeepSpeed file named beside it."),
    "context-parallel-default": (_ERROR, "Megatron's context parallelism left out: accelerate's default is 2."),
    "distributed-type": (_ERROR, "No `distributed_type`."),
    "fsdp": (_ERROR, "FSDP's versions mixed up, or weights loaded by one rank and never sent to the others."),
    "launcher": (("warning", "note"), "pdsh on several machines, which needs a hostfile and ssh."),
    "ranks": (("error", "note"), "Ranks that the machines do not divide, machines and GPUs that are not there."),
    "rendezvous": (_DEPENDS, "Several machines without an address or a port to meet at."),
    "sagemaker": (_ERROR, "A SageMaker file without the instance or the role."),
    "unused-section": (_WARNING, "A section of another `distributed_type`."),
    "use-cpu": (_ERROR, "`use_cpu` beside an engine, which accelerate then drops without a word."),
    "yaml-no": (("error", "note"), "YAML's `no` without quotes, which is false."),
    "zero3-init": (("warning", "note"), "`zero3_init_flag` where it does nothing, or divides what is only exported."),
}
_OF_FOREIGN = {
    "differs": (_ERROR, "A number that transformers wants to be the same in the recipe and in the ds_config."),
    "not-checked": (("warning", "note"), "A recipe of another trainer, whose own keys are not in the tables."),
}
_OF_RUNS = {
    "no-data": (_NOTE, "A recipe without samples: planning needs none, a run does."),
    "plan": (("error", "note"), "What contradicts the plan beside it, or differs from it."),
}

RULE_TEXTS: dict[str, RuleText] = {
    **{rule: RuleText("any file", *text) for rule, text in _OF_ANY.items()},
    **{rule: RuleText("ds_config.json", *text) for rule, text in _OF_DS_CONFIG.items()},
    **{rule: RuleText("accelerate YAML", *text) for rule, text in _OF_ACCELERATE.items()},
    **{rule: RuleText("recipe of another trainer", *text) for rule, text in _OF_FOREIGN.items()},
    **{rule: RuleText("recipe.yaml, plan.json", *text) for rule, text in _OF_RUNS.items()},
    "no-file": RuleText("run folder", _DEPENDS, "A file that another one names, or a run needs, is not there."),
}
"""By the rule's name, as it stands in brackets behind a finding."""
