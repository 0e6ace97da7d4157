"""`scheduler` of a ds_config: which there are, what they take, and whose learning rate counts.

Source: deepspeed 0.19.8 runtime/lr_schedules.py and runtime/engine.py (`_scheduler_from_config`: any class of
torch.optim.lr_scheduler goes too); for older releases the same files of each from 0.16.1 on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding
from toolkit.check.nearest import nearest
from toolkit.check.value import shown

_TORCH = (
    "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "SequentialLR",
    "PolynomialLR", "CosineAnnealingLR", "ChainedScheduler", "ReduceLROnPlateau", "CyclicLR", "OneCycleLR",
    "CosineAnnealingWarmRestarts",
)  # fmt: skip
_SCHEDULES: dict[str, tuple[set[str], set[str]]] = {
    "WarmupLR": ({"warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "warmup_type"}, set()),
    "WarmupDecayLR": ({"warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "warmup_type"}, {"total_num_steps"}),
    "WarmupCosineLR": ({"warmup_min_ratio", "warmup_num_steps", "cos_min_ratio", "warmup_type"}, {"total_num_steps"}),
    "LRRangeTest": ({f"lr_range_test_{part}" for part in ("min_lr", "step_size", "step_rate", "staircase")}, set()),
    "OneCycle": (
        {
            "decay_lr_rate", "cycle_first_step_size", "cycle_second_step_size", "cycle_first_stair_count",
            "cycle_second_stair_count", "decay_step_size", "cycle_momentum", "cycle_min_mom", "cycle_max_mom",
            "decay_mom_rate",
        },
        {"cycle_min_lr", "cycle_max_lr"},
    ),
}  # fmt: skip
"""Schedule -> what it takes, what it needs besides."""
_OF_ANY = {name for taken, needed in _SCHEDULES.values() for name in taken | needed}
_PARAMS = ("scheduler", "params")
_DEFAULT_PEAK = 0.001


def scheduler(values: Values, context: Context) -> Iterator[Finding]:
    """The section `scheduler`."""
    kind = values.get("scheduler", "type")
    if context.read_by == "toolkit" or not isinstance(kind, str) or kind in _TORCH:
        return
    if kind not in _SCHEDULES:
        yield _unknown(kind)
        return
    params = values.get(*_PARAMS)
    yield from _names(kind, params if isinstance(params, dict) else {})
    yield from _steps(values, context)
    if kind in ("WarmupLR", "WarmupDecayLR"):
        yield from _peak(kind, values, context)


def _unknown(kind: str) -> Finding:
    close = nearest(kind, list(_SCHEDULES), cutoff=0.6)
    told = f"is {shown(kind)}; did you mean {close}?" if close else f"is {shown(kind)}, which is no schedule"
    remedy = f"write {close}" if close else f"write one of {', '.join(_SCHEDULES)}, or a class of torch's"
    effect = "DeepSpeed finds no such schedule: an AssertionError at start"
    return Finding("error", "scheduler", ("scheduler", "type"), told, effect, remedy)


def _names(kind: str, given: Mapping[Any, Any]) -> Iterator[Finding]:
    taken, needed = _SCHEDULES[kind]
    for name in sorted(needed - given.keys()):
        told, remedy = f"{kind} needs `{name}`", f"add `{name}`"
        yield Finding("error", "scheduler", _PARAMS, told, "a TypeError at start", remedy)
    for name in given:
        if name in taken | needed | {"last_batch_iteration"}:
            continue
        # The name of another schedule's number is no misspelt one: 3e-5 is a rate there, and would be a ratio here.
        close = None if name in _OF_ANY else nearest(str(name), sorted(taken | needed))
        told = f"unknown key; did you mean `{close}`?" if close else f"{kind} does not take it"
        remedy = f"write `{close}`" if close else f"remove it; it takes {', '.join(sorted(taken | needed))}"
        edit = Edit("rename", close) if close else None
        yield Finding("error", "unknown-key", (*_PARAMS, str(name)), told, "a TypeError at start", remedy, edit)


def _steps(values: Values, context: Context) -> Iterator[Finding]:
    at = (*_PARAMS, "warmup_num_steps")
    warmup, total = values.number(*at), values.number(*_PARAMS, "total_num_steps")
    if (
        warmup is not None
        and context.since("0.19.3")
        and (warmup <= 0 or isinstance(warmup, float))
        and warmup == warmup // 1
    ):
        told = f"is {shown(warmup)}; since 0.19.3 it needs to be a whole number above 0, without point or exponent"
        whole = str(int(warmup)) if warmup > 0 else ""
        edit = Edit("replace", whole) if whole else None
        yield Finding("error", "out-of-range", at, told, "a ValueError at start", f"write {whole or 1}", edit)
    if warmup is not None and total is not None and warmup > total:
        told = f"is {warmup:g}, of {total:g} steps in all"
        yield Finding("warning", "scheduler", at, told, "the peak is never reached", "write fewer than all")


def _peak(kind: str, values: Values, context: Context) -> Iterator[Finding]:
    """The rate that a warmup leads to is the schedule's own, not the optimizer's."""
    at, of_optimizer = (*_PARAMS, "warmup_max_lr"), values.number("optimizer", "params", "lr")
    peak = values.number(*at)
    if values.get(*at) is None:
        if (kind == "WarmupDecayLR" or not context.since("0.17.2")) and of_optimizer != _DEFAULT_PEAK:
            told = f"{kind} without `warmup_max_lr` goes to 0.001, whatever the optimizer's `lr` is"
            effect = "training runs at another learning rate than the optimizer names"
            yield Finding("warning", "scheduler", _PARAMS, told, effect, "add `warmup_max_lr`")
    elif peak is not None and of_optimizer is not None and peak != of_optimizer:
        told = f"is {peak:g}, and `optimizer.params.lr` {of_optimizer:g}: the schedule's counts"
        yield Finding("warning", "scheduler", at, told, "the optimizer's `lr` has no effect", "write the same twice")
