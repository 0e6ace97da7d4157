"""Batch sizes that do not multiply, and clipping that nobody has chosen.

Source: deepspeed 0.19.8 runtime/config.py (`_set_batch_related_parameters`, `_batch_assertion`); DeepSpeed #8068 for
the default of `gradient_clipping`.
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding, Location, Severity
from toolkit.check.meant import MEANT
from toolkit.check.nearest import nearest

_TOTAL, _MICRO, _ACCUM = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"


def batch(values: Values, context: Context) -> Iterator[Finding]:
    """Whether micro-batch x accumulation x replicas is the global batch."""
    if values.get(_TOTAL) is None and values.get(_MICRO) is None:
        if _meant(values, _TOTAL, _MICRO):
            return
        told = f"neither `{_TOTAL}` nor `{_MICRO}` is given"
        effect = "DeepSpeed refuses the file, unless the script puts one of them in"
        severity: Severity = "error" if context.read_by in ("toolkit", "deepspeed") else "warning"
        yield Finding(severity, "no-batch-size", (_MICRO,), told, effect, f"give `{_MICRO}`")
        return
    if divides_models(values, context):
        yield from _with_tensor_parallel(values)
        return
    total, micro, accum = (values.whole(name) for name in (_TOTAL, _MICRO, _ACCUM))
    if total is None or total <= 0 or (micro is not None and micro <= 0) or (accum is not None and accum <= 0):
        return
    ranks = replicas(values, context)
    if fault := _mismatch(total, micro, accum, ranks=ranks):
        effect = "DeepSpeed refuses it at start, or rounds the micro-batches down"
        remedy = f"leave `{_TOTAL}` out: it follows from the other two"
        yield Finding("error", "batch-arithmetic", (_TOTAL,), fault, effect, remedy)


def _meant(values: Values, *keys: str) -> bool:
    """Whether one of the keys is given, or a name that stands for it, of which `unknown-key` speaks."""
    names = [str(name) for name in values.content]
    return any(MEANT.get((name,)) in [(key,) for key in keys] or nearest(name, list(keys)) for name in names)


def divides_models(values: Values, context: Context) -> bool:
    """Whether a replica has several tensor-parallel ranks."""
    size = values.whole("tensor_parallel", "autotp_size") or 0
    return size > 1 or (context.plan is not None and context.plan.tp > 1)


def replicas(values: Values, context: Context) -> int | None:
    """Data-parallel replicas that DeepSpeed divides the global batch by; None where they are not known."""
    if context.plan is not None:
        layout = ("strategy", "layout")
        spans = context.plan.whole(*layout, "sp") or 1
        return context.plan.whole(*layout, "dp") if spans == 1 else None
    spans = values.whole("sequence_parallel_size") or 1
    ranks = context.world_size
    return None if ranks is None or spans < 1 or ranks % spans else ranks // spans


def _mismatch(total: int, micro: int | None, accum: int | None, *, ranks: int | None) -> str | None:
    """What does not go into what, in words; None where all is well or cannot be known."""
    words = [(micro, "micro-batch"), (accum, "accumulation"), (ranks, "ranks")]
    given = [(number, name) for number, name in words if number is not None]
    product = 1
    for number, _ in given:
        product *= number
    told = " x ".join(f"{name} {number}" for number, name in given)
    if micro is not None and accum is not None and ranks is not None:
        return None if total == product else f"is {total}, and {told} = {product}"
    return None if total % product == 0 else f"is {total}, which {told} = {product} does not divide"


def _with_tensor_parallel(values: Values) -> Iterator[Finding]:
    if values.whole(_TOTAL) is not None:
        told = "with tensor parallelism DeepSpeed counts the ranks of a replica as replicas here"
        effect = "the right number is refused, and the number that it takes is too large by the tensor-parallel size"
        remedy = f"remove it; give `{_MICRO}` and `{_ACCUM}`"
        yield Finding("error", "batch-under-tp", (_TOTAL,), told, effect, remedy, Edit("remove"))


def clipping(values: Values, context: Context) -> Iterator[Finding]:
    """Clipping left to a default that differs between releases, or switched off."""
    at: Location = ("gradient_clipping",)
    if values.has("gradient_clipping") and values.get("gradient_clipping") is None:
        effect, remedy = "a TypeError at the first step", "write the norm, as 1.0, or 0 for none"
        yield Finding("error", "wrong-type", at, "is null, needs a number", effect, remedy)
    elif not _meant(values, "gradient_clipping"):
        now = "1.0" if context.since("0.19.3") else "0, which clips nothing"
        told = f"`gradient_clipping` is missing: its default is {now} in {context.deepspeed}, and changed in 0.19.3"
        effect = "runs of two releases clip differently; the Trainer's max_grad_norm does not count without the key"
        remedy = 'write the norm, as 1.0, or 0 for none ("auto" with the Trainer)'
        severity: Severity = "error" if context.read_by == "toolkit" else "warning"
        yield Finding(severity, "clipping-default", at, told, effect, remedy)
    if values.number("optimizer", "params", "max_grad_norm") is not None:
        at = ("optimizer", "params", "max_grad_norm")
        told, remedy = "is not a number of the optimizer in DeepSpeed", "write `gradient_clipping` at the top level"
        yield Finding("error", "max-grad-norm", at, told, "DeepSpeed refuses it at start", remedy)
