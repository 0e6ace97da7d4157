"""What DeepSpeed takes when it reads the file, and refuses when it makes the engine.

Source: deepspeed 0.19.8 runtime/engine.py (`_do_sanity_check`, `_do_optimizer_sanity_check`), zero/utils.py
(`ZERO_SUPPORTED_OPTIMIZERS`), zero/stage_1_and_2.py, zero/stage3.py, base_optimizer.py (`_configure_master_weights`),
zenflow/zenflow_stage_1_and_2.py, activation_checkpointing/checkpointing.py.
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding, Location
from toolkit.check.zero_rules import device_of, stage_of

_REFUSED = "DeepSpeed refuses it when the engine is made"
_TRIED = ("adam", "adamw", "adagrad", "lion", "muon")
_Z = "zero_optimization"
_NAMES = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}


def engine(values: Values, context: Context) -> Iterator[Finding]:
    """Everything that stops a run at `deepspeed.initialize`."""
    stage = stage_of(values)
    if stage is not None:
        yield from _optimizer(values, stage)
        yield from _reduction(values, stage)
        yield from _masters(values, stage)
        yield from _accumulation(values, context, stage)
    yield from _zenflow(values)
    yield from _activations(values)
    if values.number("steps_per_print") == 0:
        told, effect = "is 0, by which the steps are divided", "a ZeroDivisionError at the first step"
        yield Finding("error", "out-of-range", ("steps_per_print",), told, effect, "write a large number, or remove it")


def _optimizer(values: Values, stage: int) -> Iterator[Finding]:
    kind, at = values.get("optimizer", "type"), ("optimizer", "type")
    if not isinstance(kind, str):
        return
    known = kind.lower() in (*_TRIED, "lamb") or kind in ("SGD", "RMSprop", "Adafactor", "NAdam", "RAdam", "Adamax")
    if stage > 0 and known and kind.lower() not in _TRIED and not values.on("zero_allow_untested_optimizer"):
        told = f"{kind} has not been tried with ZeRO by DeepSpeed"
        remedy = 'add "zero_allow_untested_optimizer": true, or use AdamW'
        yield Finding("error", "untested-optimizer", at, told, _REFUSED, remedy)
    if kind.lower() == "lamb" and (values.number("fp16", "loss_scale") or 0) != 0:
        told = "Lamb needs the dynamic loss scale"
        yield Finding("error", "optimizer", at, told, _REFUSED, "set `fp16.loss_scale` to 0")
    if kind.lower() == "muon" and stage == 3 and not values.off(_Z, "reduce_scatter"):
        told = "Muon with ZeRO-3 does not go with `reduce_scatter`, which is on unless it is switched off"
        yield Finding("error", "optimizer", at, told, _REFUSED, 'add "reduce_scatter": false to zero_optimization')


def _reduction(values: Values, stage: int) -> Iterator[Finding]:
    if stage >= 2 and not values.off(_Z, "reduce_scatter"):
        factor = values.number("gradient_predivide_factor")
        if factor is not None and factor != 1:
            told, at = (
                f"is {factor:g}, needs to be 1 with `reduce_scatter`, which is on",
                ("gradient_predivide_factor",),
            )
            yield Finding("error", "prescale", at, told, _REFUSED, "remove it, or set `reduce_scatter` to false")
        if values.on("prescale_gradients"):
            told, at = "is not for ZeRO 2 and 3 with `reduce_scatter`, which is on", ("prescale_gradients",)
            yield Finding("error", "prescale", at, told, _REFUSED, "remove it, or set `reduce_scatter` to false")
    bucket = values.whole(_Z, "allgather_bucket_size")
    if stage in (1, 2) and bucket is not None and bucket > 0 and bucket % 2:
        told = f"is {bucket}, needs to be even"
        yield Finding("error", "out-of-range", (_Z, "allgather_bucket_size"), told, _REFUSED, f"write {bucket + 1}")


def _masters(values: Values, stage: int) -> Iterator[Finding]:
    if stage == 0 or device_of(values, "offload_optimizer") != "none":
        return
    fp16, bf16 = ("fp16", "fp16_master_weights_and_grads"), ("bf16", "bf16_master_weights_and_grads")
    needing = [path for path in (fp16, bf16) if values.on(*path)]
    for path in needing:
        if path == bf16 and values.on("bf16", "bf16_optimizer_states"):
            continue
        told = "needs the optimizer offloaded to the CPU"
        told += ", or `bf16_optimizer_states`" if path == bf16 else ""
        yield Finding("error", "master-weights", path, told, _REFUSED, "add what it needs, or remove it")


def _accumulation(values: Values, context: Context, stage: int) -> Iterator[Finding]:
    asked = values.get("data_types", "grad_accum_dtype")
    sections = ("fp16", "bf16", "bfloat16")
    if stage != 0 or not isinstance(asked, str) or "auto" in [values.get(one, "enabled") for one in sections]:
        return
    runs = "fp16" if values.on("fp16", "enabled") else "fp32"
    runs = "bf16" if values.on("bf16", "enabled") or values.on("bfloat16", "enabled") else runs
    name = asked.removeprefix("torch.")
    # Before 0.18.5 bf16 weights went with sums in fp32, and had them unless something else was asked for.
    wide = runs == "bf16" and not context.since("0.18.5")
    if _NAMES.get(name, name) not in (runs, "fp32" if wide else runs):
        told = f"is {asked}; without ZeRO gradients are added up in {runs}, as the weights are"
        at = ("data_types", "grad_accum_dtype")
        yield Finding("error", "accumulation-dtype", at, told, _REFUSED, "set `stage` to 1, or remove it")


def _zenflow(values: Values) -> Iterator[Finding]:
    at: Location = (_Z, "zenflow")
    if not isinstance(values.get(_Z, "zenflow"), dict):
        return
    if device_of(values, "offload_optimizer") == "none":
        told = "needs the optimizer offloaded to the CPU"
        remedy = 'add "offload_optimizer": {"device": "cpu"}'
        yield Finding("error", "zenflow", at, told, _REFUSED, remedy)
    if values.on(_Z, "zenflow", "offload") and values.off(_Z, "overlap_comm"):
        told = "offload needs `overlap_comm`"
        yield Finding("error", "zenflow", (*at, "offload"), told, _REFUSED, "set `overlap_comm` to true")


def _activations(values: Values) -> Iterator[Finding]:
    section = "activation_checkpointing"
    at = (section, "contiguous_memory_optimization")
    if not values.on(*at):
        return
    missing = [] if values.on(section, "partition_activations") else ["`partition_activations`: true"]
    missing += [] if values.number(section, "number_checkpoints") else ["`number_checkpoints`"]
    if missing:
        told = f"needs {' and '.join(missing)}"
        effect = "an AssertionError where DeepSpeed's own checkpointing is used"
        yield Finding("error", "activation-checkpointing", at, told, effect, "add them, or remove it")
