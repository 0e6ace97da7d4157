"""Keys of `zero_optimization` that contradict its stage or each other.

Source: deepspeed 0.19.8 runtime/zero/config.py (validators), runtime/config.py (`_do_error_check`), runtime/engine.py
(`_do_sanity_check`, `_configure_zero_optimizer`), runtime/zero/stage_1_and_2.py (any offload device means CPU there);
accelerate 1.15 utils/dataclasses.py (`DeepSpeedPlugin.__post_init__`).
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values, autos
from toolkit.check.finding import Edit, Finding, Location, Severity
from toolkit.check.value import shown

_Z = "zero_optimization"
_REFUSED = "DeepSpeed refuses it at start"


def stage_of(values: Values) -> int | None:
    """The ZeRO stage; None where it is "auto" or no number."""
    given = values.get(_Z)
    if isinstance(given, bool):
        return int(given)
    if not values.has(_Z, "stage"):
        return 0
    stage = values.get(_Z, "stage")
    return int(stage) if isinstance(stage, str) and stage in ("0", "1", "2", "3") else values.whole(_Z, "stage")


def device_of(values: Values, part: str) -> str:
    """Where a part is offloaded to; none where it is not."""
    device = values.get(_Z, part, "device")
    old = {"offload_param": "cpu_offload_param", "offload_optimizer": "cpu_offload"}[part]
    return device if isinstance(device, str) else "cpu" if values.on(_Z, old) else "none"


def zero(values: Values, context: Context) -> Iterator[Finding]:
    """Everything that depends on the stage."""
    if isinstance(values.get(_Z), bool):
        told, remedy = "true or false is the format of 2020", 'write {"stage": 1}, or the stage that is meant'
        edit = Edit("replace", f'{{"stage": {int(values.get(_Z))}}}')
        yield Finding("warning", "deprecated-key", (_Z,), told, "true means stage 1, false 0", remedy, edit)
    yield from _missing(values, context)
    stage = stage_of(values)
    if stage is None:
        return
    if stage > 3:
        told = f"is {stage}, needs to be 0, 1, 2 or 3"
        yield Finding("error", "out-of-range", (_Z, "stage"), told, _REFUSED, "write 0, 1, 2 or 3")
        return
    yield from _offload(values, stage)
    yield from _disk(values, stage)
    yield from _only_of_stage_3(values, stage)
    yield from _refusals(values, stage, context)
    yield from _buckets(values, context)
    yield from _saving(values, stage)


def _missing(values: Values, context: Context) -> Iterator[Finding]:
    """accelerate's plugin, which the Trainer goes through, wants the section."""
    tuned = values.on("autotuning", "enabled")
    if values.has(_Z) or tuned or context.read_by not in ("trainer", None):
        return
    if context.read_by is None and not autos(values.content):
        return
    told = "`zero_optimization` is missing, which accelerate wants, and the Trainer goes through it"
    severity: Severity = "error" if context.read_by == "trainer" else "warning"
    yield Finding(severity, "no-zero", (_Z,), told, "a ValueError at start", 'add "zero_optimization": {"stage": 0}')


def _offload(values: Values, stage: int) -> Iterator[Finding]:
    if device_of(values, "offload_param") not in ("none", "auto") and stage < 3:
        told = f"weights are offloaded by ZeRO-3 alone, the stage is {stage}"
        effect = "the section is ignored without a word: every GPU keeps all weights"
        yield Finding("error", "offload-stage", (_Z, "offload_param"), told, effect, "set `stage` to 3, or remove it")
    if device_of(values, "offload_optimizer") not in ("none", "auto") and stage == 0:
        told = "the optimizer is offloaded by ZeRO 1, 2 and 3, the stage is 0"
        effect = "a CPU optimizer is given weights on the GPU, and fails"
        yield Finding("error", "offload-stage", (_Z, "offload_optimizer"), told, effect, "set `stage`, or remove it")
    ratio = values.number(_Z, "offload_optimizer", "ratio")
    if ratio is not None and ratio < 1 and stage != 3:
        told = f"a part of the optimizer ({ratio:g}) is offloaded by ZeRO-3 alone, the stage is {stage}"
        at: Location = (_Z, "offload_optimizer", "ratio")
        yield Finding("error", "offload-stage", at, told, _REFUSED, "remove `ratio`, or set `stage` to 3")
    elif ratio is not None and ratio < 1 and (other := _no_cpu_adam(values)):
        at = (_Z, "offload_optimizer", "ratio")
        told = f"a part of the optimizer ({ratio:g}) is offloaded with DeepSpeed's own Adam alone, and this is {other}"
        remedy = f"remove `ratio`, or {_INSTEAD.get(other, 'use AdamW')}"
        yield Finding("error", "partial-offload", at, told, _REFUSED, remedy)
    if values.on(_Z, "offload_optimizer", "super_offload") and stage != 3:
        at = (_Z, "offload_optimizer", "super_offload")
        told = f"is for ZeRO-3 alone, the stage is {stage}"
        yield Finding("warning", "offload-stage", at, told, "it is ignored without a word", "remove it")


_TORCH_ADAM, _ZENFLOW = "torch's (`torch_adam`)", "ZenFlow's"
_INSTEAD = {_TORCH_ADAM: "remove `torch_adam`", _ZENFLOW: "remove `zenflow`"}


def _no_cpu_adam(values: Values) -> str:
    """Which optimizer of the file is not DeepSpeed's Adam on the CPU; nothing where the file names none."""
    kind = values.get("optimizer", "type")
    if not isinstance(kind, str) or device_of(values, "offload_optimizer") in ("none", "auto"):
        return ""
    if kind.lower() not in ("adam", "adamw"):
        return shown(kind)
    if values.on("optimizer", "params", "torch_adam"):
        return _TORCH_ADAM
    return _ZENFLOW if isinstance(values.get(_Z, "zenflow"), dict) else ""


def _disk(values: Values, stage: int) -> Iterator[Finding]:
    for part in ("offload_optimizer", "offload_param"):
        if device_of(values, part) != "nvme":
            continue
        path = values.get(_Z, part, "nvme_path")
        if not isinstance(path, str) or not path:
            told = f"device is nvme and `nvme_path` is {'missing' if path is None else shown(path)}"
            effect = "the run fails where it first writes to the disk"
            remedy = "name a folder on a local disk"
            at: Location = (_Z, part, "device" if path is None else "nvme_path")
            yield Finding("error", "nvme-path", at, told, effect, remedy)
        if stage in (1, 2) and part == "offload_optimizer":
            told = f"device is nvme, which ZeRO-3 alone can; the stage is {stage}"
            effect = "the states go to host memory instead, without a word"
            yield Finding(
                "error", "offload-stage", (_Z, part, "device"), told, effect, "write cpu, or set `stage` to 3"
            )


def _only_of_stage_3(values: Values, stage: int) -> Iterator[Finding]:
    if stage == 3:
        return
    for name in ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"):
        if values.on(_Z, name):
            told, effect = f"is for ZeRO-3, the stage is {stage}", "it is ignored: everything is sent in full"
            yield Finding("warning", "zeropp-stage", (_Z, name), told, effect, "remove it, or set `stage` to 3")
    size = values.number(_Z, "zero_hpz_partition_size")
    if size is not None and size > 1:
        at = (_Z, "zero_hpz_partition_size")
        told, effect = f"is for ZeRO-3, the stage is {stage}", "it is ignored without a word"
        yield Finding("warning", "zeropp-stage", at, told, effect, "remove it, or set `stage` to 3")


def _refusals(values: Values, stage: int, context: Context) -> Iterator[Finding]:
    if values.off(_Z, "compute_grad_norm"):
        at: Location = (_Z, "compute_grad_norm")
        if stage not in (1, 2):
            told = f"false is for ZeRO 1 and 2, the stage is {stage}"
            yield Finding("error", "grad-norm", at, told, _REFUSED, "remove it")
        elif device_of(values, "offload_optimizer") != "none" or isinstance(values.get(_Z, "zenflow"), dict):
            told = "false is for optimizers on the GPU, without offload and ZenFlow"
            yield Finding("error", "grad-norm", at, told, _REFUSED, "remove it")
        elif values.number("gradient_clipping") != 0:
            told = "false with gradient clipping, which needs the norm"
            yield Finding("error", "grad-norm", at, told, "gradients are not clipped by it", "remove it")
    if values.on(_Z, "legacy_stage1"):
        told = "the first version of stage 1 is gone since 0.5.9"
        yield Finding("error", "removed-key", (_Z, "legacy_stage1"), told, _REFUSED, "remove it")
    if values.on(_Z, "elastic_checkpoint") and stage == 3:
        told = "is no longer supported with ZeRO-3"
        effect, remedy = "checkpoints do not change the number of ranks by it", "use `checkpoint.load_universal`"
        yield Finding("warning", "deprecated-key", (_Z, "elastic_checkpoint"), told, effect, remedy)
    summed = values.get("gradient_allreduce_op") in ("sum", "SUM")
    against = {
        "ZeRO-3": stage == 3,
        "ZenFlow": isinstance(values.get(_Z, "zenflow"), dict),
        "DeepCompile": values.on("compile", "deepcompile"),
    }
    if summed and (named := [name for name, given in against.items() if given]):
        told = f"sum is not for {' and '.join(named)}"
        yield Finding("error", "allreduce-sum", ("gradient_allreduce_op",), told, _REFUSED, "remove it")
    yield from _unmanaged(values, stage, context)


def _buckets(values: Values, context: Context) -> Iterator[Finding]:
    at = (_Z, "reduce_bucket_size")
    if values.off(*at) and context.since("0.19.6"):
        told, remedy = "is 0, needs to be above 0 since 0.19.6", "write 5e8, the default"
        yield Finding("error", "out-of-range", at, told, _REFUSED, remedy)


def _unmanaged(values: Values, stage: int, context: Context) -> Iterator[Finding]:
    if not values.off("managed_gradient_accumulation"):
        return
    offload = any(device_of(values, part) not in ("none", "auto") for part in ("offload_optimizer", "offload_param"))
    refused = {
        "`overlap_comm` below ZeRO-2": stage < 2 and values.on(_Z, "overlap_comm"),
        "DeepCompile": values.on("compile", "deepcompile"),
        "offload before 0.19.5": offload and not context.since("0.19.5"),
        "Apex AMP": values.on("amp", "enabled") and not context.since("0.19.8"),
    }
    for other in (name for name, given in refused.items() if given):
        at, told = ("managed_gradient_accumulation",), f"false is not for {other}"
        yield Finding("error", "unmanaged-accumulation", at, told, _REFUSED, "remove it, or the other one")


def _saving(values: Values, stage: int) -> Iterator[Finding]:
    names = ("stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save")
    old = "stage3_gather_fp16_weights_on_model_save"
    if stage == 3 and not any(values.get(_Z, name) not in (None, False) for name in (*names, old)):
        given = [name for name in (*names, old) if values.has(_Z, name)]
        told = "without `stage3_gather_16bit_weights_on_model_save`, save_16bit_model and the Trainer write no weights"
        effect = "a checkpoint has to be put together with zero_to_fp32.py"
        remedy = "set it to true where the model is to be saved as one"
        yield Finding("note", "saves-no-weights", (_Z, *given[:1]), told, effect, remedy)
