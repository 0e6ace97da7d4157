"""Number formats that exclude each other, or that nothing has chosen.

Source: deepspeed 0.19.8 runtime/config.py (`_initialize_params`, `_do_error_check`), runtime/engine.py
(`_assert_valid_mixed_precision_config`).
"""

import math
from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding
from toolkit.check.value import shown

_NAMES = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}


def precision(values: Values, context: Context) -> Iterator[Finding]:
    """What the sections fp16, bf16, torch_autocast and data_types say together."""
    fp16, bf16 = values.on("fp16", "enabled"), _bf16(values)
    if fp16 and bf16:
        told, remedy = "fp16 and bf16 are both enabled", "set `enabled` of one of them to false"
        yield Finding("error", "fp16-and-bf16", ("bf16", "enabled"), told, "DeepSpeed refuses it at start", remedy)
    if not fp16 and not bf16 and not _open(values) and not values.on("torch_autocast", "enabled"):
        told = "neither bf16 nor fp16 is enabled: training is in fp32"
        at = ("bf16",) if values.has("bf16") else ("fp16",) if values.has("fp16") else ()
        yield Finding("note", "fp32", at, told, "twice the memory of weights", "enable bf16 where GPUs have it")
    if values.on("torch_autocast", "enabled") and fp16:
        told = "torch_autocast beside fp16: the weights are fp16 already, and the loss is scaled twice over"
        remedy = "keep one of the two"
        yield Finding("warning", "autocast-and-fp16", ("torch_autocast",), told, "the numbers of fp16 count", remedy)
    if values.on("torch_autocast", "enabled") and not values.has("torch_autocast", "dtype"):
        told = "names no `dtype`; torch's own choice counts, which is fp16 on GPUs"
        yield Finding(
            "warning", "autocast-dtype", ("torch_autocast",), told, "large values overflow", 'write "bfloat16"'
        )
    yield from _params_dtype(values, fp16=fp16, bf16=bf16)
    yield from _low_precision_states(values)
    yield from _loss_scale(values)


def _bf16(values: Values) -> bool:
    return values.on("bf16", "enabled") or (not values.has("bf16") and values.on("bfloat16", "enabled"))


def _open(values: Values) -> bool:
    """Whether somebody else decides: "auto", or no section at all in a file that a script completes."""
    given = [values.get(name, "enabled") for name in ("fp16", "bf16", "bfloat16")]
    return "auto" in given or not any(values.has(name) for name in ("fp16", "bf16", "bfloat16"))


def _params_dtype(values: Values, *, fp16: bool, bf16: bool) -> Iterator[Finding]:
    asked = values.get("data_types", "param_dtype")
    if not isinstance(asked, str) or "auto" in (values.get("fp16", "enabled"), values.get("bf16", "enabled")):
        return
    name = asked.removeprefix("torch.")
    runs = "fp16" if fp16 else "bf16" if bf16 else "fp32"
    if _NAMES.get(name, name) != runs:
        told = f"is {asked}, and the sections fp16 and bf16 make it {runs}"
        effect, remedy = "DeepSpeed refuses it at start", "remove it, or enable the section of that name"
        yield Finding("error", "param-dtype", ("data_types", "param_dtype"), told, effect, remedy)


def _low_precision_states(values: Values) -> Iterator[Finding]:
    stage = values.whole("zero_optimization", "stage") or 0
    for path in (("fp16", "fp16_master_weights_and_grads"), ("bf16", "bf16_master_weights_and_grads")):
        if values.on(*path) and stage == 0 and values.get("zero_optimization", "stage") != "auto":
            told, effect = "needs ZeRO stage 1, 2 or 3, the stage is 0", "DeepSpeed refuses it at start"
            yield Finding("error", "master-weights", path, told, effect, "remove it, or set the stage")
    states = ("bf16", "bf16_optimizer_states")
    if values.on(*states) and not values.on("bf16", "bf16_master_weights_and_grads"):
        told, effect = "needs `bf16_master_weights_and_grads` too", "DeepSpeed refuses it at start"
        yield Finding("error", "master-weights", states, told, effect, "set both, or remove it")
    master = ("bf16", "bf16_master_weights_and_grads")
    if values.on(*master) and _bf16(values):
        told = "no fp32 copy of the weights: updates below 1/256 of a weight are lost"
        effect = "small learning rates train little or nothing, without a sign of it"
        yield Finding("warning", "no-fp32-master", master, told, effect, "keep fp32 masters unless memory forbids them")


def _loss_scale(values: Values) -> Iterator[Finding]:
    for name in ("loss_scale", "loss_scale_window", "min_loss_scale"):
        given = values.get("fp16", name)
        if isinstance(given, bool) or (isinstance(given, float) and not math.isfinite(given)):
            told, effect = f"is {shown(given)}, needs a number", "DeepSpeed refuses it at start"
            yield Finding("error", "wrong-type", ("fp16", name), told, effect, "write a number")
    dynamic = values.on("fp16", "enabled") and not values.number("fp16", "loss_scale")
    for name in ("loss_scale_window", "min_loss_scale"):
        number = values.number("fp16", name)
        if dynamic and number is not None and number <= 0:
            told = f"is {number:g}, needs to be above 0 with a dynamic loss scale"
            effect = "DeepSpeed refuses it, or divides by 0"
            yield Finding("error", "out-of-range", ("fp16", name), told, effect, "write 1 or more")
    scale = values.number("fp16", "loss_scale")
    if values.on("fp16", "enabled") and scale is not None and 0 < scale < 2:
        told = f"is {scale:g}: a static scale that scales nothing; 0 means dynamic"
        yield Finding("warning", "loss-scale", ("fp16", "loss_scale"), told, "small gradients become 0", "write 0")
