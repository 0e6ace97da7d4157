"""Releases of DeepSpeed that compute something wrong, and the settings that meet it.

Each entry names the issue or pull request in github.com/deepspeedai/DeepSpeed (one is accelerate's); the ranges are of
the releases that have the fault, the first fixed one excluded. Where the issue does not say when it came, the sources
of the releases were compared: a pipeline divided in `backward` up to 0.18.2, bf16 without ZeRO has had FP16_Optimizer
since 0.17.6, only the first micro-batch has been copied to the host since 0.15.2, WarmupLR has taken the first group's
rate since 0.17.2.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding, Location, Severity
from toolkit.check.releases import Release
from toolkit.check.zero_rules import device_of, stage_of

_STAGE = ("zero_optimization", "stage")


class Meets(NamedTuple):
    """How sure it is that a file meets a fault."""

    severity: Severity
    at: Location


_Trigger = Callable[[Values, Context], Meets | None]


class Fault(NamedTuple):
    """A fault of some releases."""

    issue: str
    first: str
    """The first release that has it; 0.0.0 where it is not known when it came."""
    fixed: str
    """The first that has it no more."""
    words: str
    trigger: _Trigger


def _accumulates(values: Values, context: Context) -> Severity | None:
    """error: more than one micro-batch a step; warning: nobody knows."""
    steps = values.get("gradient_accumulation_steps")
    if steps in (None, "auto"):
        return "warning" if steps == "auto" or not values.has("train_micro_batch_size_per_gpu") else None
    number = values.number("gradient_accumulation_steps")
    return "error" if number is not None and number > 1 else None


def _stage_2(values: Values, context: Context) -> Meets | None:
    return Meets("error", _STAGE) if stage_of(values) == 2 else None


def _accumulation(values: Values, context: Context) -> Meets | None:
    # Only a script that calls loss.backward() itself meets it.
    return Meets("warning", ("gradient_accumulation_steps",)) if _accumulates(values, context) else None


def _stage_2_bf16(values: Values, context: Context) -> Meets | None:
    return Meets("warning", _STAGE) if stage_of(values) == 2 and _bf16(values) else None


def _bf16(values: Values) -> bool:
    return values.on("bf16", "enabled") or values.on("bfloat16", "enabled")


def _pipeline(values: Values, context: Context) -> Meets | None:
    planned = context.plan is not None and context.plan.engine == "pipeline"
    if not planned and (values.whole("pipeline", "stages") or 0) < 2:
        return None
    severity = _accumulates(values, context)
    return Meets(severity, ("gradient_accumulation_steps",)) if severity else None


def _bf16_stage_0(values: Values, context: Context) -> Meets | None:
    # With fp32 sums, and under a pipeline, BF16_Optimizer is chosen, which scales nothing.
    piped = values.has("pipeline") or (context.plan is not None and context.plan.engine == "pipeline")
    if stage_of(values) != 0 or not _bf16(values) or _wide_sums(values) or piped:
        return None
    return Meets("error", _STAGE)


def _offload_accumulation(values: Values, context: Context) -> Meets | None:
    if stage_of(values) not in (1, 2) or device_of(values, "offload_optimizer") not in ("cpu", "nvme"):
        return None
    severity = _accumulates(values, context)
    return Meets(severity, ("zero_optimization", "offload_optimizer")) if severity else None


def _stage_1_fp32_sums(values: Values, context: Context) -> Meets | None:
    return Meets("error", _STAGE) if stage_of(values) == 1 and _bf16(values) and _wide_sums(values) else None


def _wide_sums(values: Values) -> bool:
    return values.get("data_types", "grad_accum_dtype") in ("fp32", "float32", "torch.float32", "float")


def _overlap(values: Values, context: Context) -> Meets | None:
    at = ("zero_optimization", "overlap_comm")
    return Meets("warning", at) if values.on(*at) and stage_of(values) in (1, 2, None) else None


def _autotp_stage_3(values: Values, context: Context) -> Meets | None:
    tp = values.whole("tensor_parallel", "autotp_size") or 0
    return Meets("error", ("tensor_parallel", "autotp_size")) if tp > 1 and stage_of(values) == 3 else None


def _warmup(values: Values, context: Context) -> Meets | None:
    inherits = (
        values.get("scheduler", "type") == "WarmupLR" and values.get("scheduler", "params", "warmup_max_lr") is None
    )
    return Meets("warning", ("scheduler", "type")) if inherits else None


def _sequence(values: Values, context: Context) -> Meets | None:
    spans = (values.whole("sequence_parallel_size") or 1) > 1
    planned = context.plan is not None and (context.plan.whole("strategy", "layout", "sp") or 1) > 1
    return Meets("error", ("sequence_parallel_size",)) if spans or planned else None


def _hpz(values: Values, context: Context) -> Meets | None:
    at = ("zero_optimization", "zero_hpz_partition_size")
    return Meets("warning", at) if (values.whole(*at) or 1) > 1 else None


def _universal_stage_3(values: Values, context: Context) -> Meets | None:
    at = ("checkpoint", "load_universal")
    return Meets("error", at) if values.on(*at) and stage_of(values) == 3 else None


FAULTS = (
    Fault("#7718", "0.17.6", "0.18.3", "gradients are wrong with ZeRO-2", _stage_2),
    Fault("accelerate #3877", "0.18.3", "0.18.4", "a loss with loss.backward() is not divided by the accumulation",
          _accumulation),
    Fault("#8224", "0.18.3", "0.19.6", "gradients are missing where a module is used twice (ZeRO-2, bf16)",
          _stage_2_bf16),
    Fault("#7773", "0.18.3", "0.18.5", "a pipeline adds gradients up instead of averaging them", _pipeline),
    Fault("#8152", "0.18.5", "0.19.3", "a pipeline divides gradients by the accumulation at every stage", _pipeline),
    Fault("#7837", "0.17.6", "0.18.6", "gradients are added up over the steps, or divided by 65536 (bf16, ZeRO-0)",
          _bf16_stage_0),
    Fault("#7967", "0.15.2", "0.19.0", "only one micro-batch's gradients are kept (ZeRO 1 and 2, CPU offload)",
          _offload_accumulation),
    Fault("#7985", "0.18.6", "0.19.0", "the last micro-batch leaks into the next step (ZeRO-1, bf16, fp32 sums)",
          _stage_1_fp32_sums),
    Fault("#8061", "0.0.0", "0.19.3", "gradients of several streams, as torch.compile has, are sent before they are "
          "there (ZeRO 1 and 2, overlap_comm)", _overlap),
    Fault("#8168", "0.16.4", "0.19.4", "checkpoints are incomplete (AutoTP with ZeRO-3)", _autotp_stage_3),
    Fault("#8171", "0.17.2", "0.19.4", "groups of parameters all get the first one's learning rate (WarmupLR without "
          "`warmup_max_lr`)", _warmup),
    Fault("#8226", "0.17.0", "0.19.6", "checkpoints come from the wrong rank (sequence parallelism)", _sequence),
    Fault("#8210", "0.0.0", "0.19.5", "a weight too small for a shard on each rank stops the run, or has unset padding "
          "(hpZ)", _hpz),
    Fault("#7585", "0.0.0", "0.18.0", "universal checkpoints load wrong with ZeRO-3 on several nodes",
          _universal_stage_3),
)  # fmt: skip


def known_bad(values: Values, context: Context) -> Iterator[Finding]:
    """Faults of the release that the file's settings meet."""
    for fault in FAULTS:
        if not Release.parse(fault.first) <= context.deepspeed < Release.parse(fault.fixed):
            continue
        if (meets := fault.trigger(values, context)) is not None:
            told = f"DeepSpeed {context.deepspeed} has {fault.issue}: {fault.words}"
            effect = "training goes on with wrong numbers" if meets.severity == "error" else "it may concern this run"
            yield Finding(meets.severity, "known-bad", meets.at, told, effect, f"install deepspeed>={fault.fixed}")
