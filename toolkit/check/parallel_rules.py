"""Tensor, pipeline and sequence parallelism, and what does not go with them.

Source: deepspeed 0.19.8 runtime/pipe/engine.py, runtime/engine.py (`get_deepspeed_compile_backend`),
compile/config.py; that LoRA's adapters disappear under AutoTP was measured with peft 0.21.2.
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding
from toolkit.check.zero_rules import stage_of

_REFUSED = "DeepSpeed refuses it at start"
_Z = "zero_optimization"


def parallelism(values: Values, context: Context) -> Iterator[Finding]:
    """Degrees against the ranks, the stage and each other."""
    yield from _tensor(values, context)
    yield from _pipeline(values, context)
    yield from _groups(values, context)
    yield from _compile(values)


def _tensor(values: Values, context: Context) -> Iterator[Finding]:
    size = values.whole("tensor_parallel", "autotp_size") or 0
    at = ("tensor_parallel", "autotp_size")
    if size > 1 and context.world_size is not None and context.world_size % size:
        told = f"is {size}, which does not divide {context.world_size} ranks"
        yield Finding("error", "degree", at, told, _REFUSED, "write a divisor of the number of ranks")
    if size > 1 and context.trains_adapters is not False:
        told = "AutoTP replaces the layers that carry LoRA adapters"
        effect = "with PEFT no trainable weight is left, and no message says so; full fine-tuning is not concerned"
        remedy = "do not use PEFT with this file"
        yield Finding("error" if context.trains_adapters else "note", "autotp-and-peft", at, told, effect, remedy)
    inner, outer = values.whole("tensor_parallel", "tensor_parallel", "tp_size"), values.whole(*at)
    if inner is not None and outer and inner not in (1, outer):
        told = f"`tp_size` is {inner}, `autotp_size` {outer}"
        at_inner = ("tensor_parallel", "tensor_parallel", "tp_size")
        yield Finding("error", "degree", at_inner, told, _REFUSED, "leave `tp_size` out")


def _pipeline(values: Values, context: Context) -> Iterator[Finding]:
    stage = stage_of(values)
    planned = context.plan is not None and context.plan.engine == "pipeline"
    stages = values.whole("pipeline", "stages") or 0
    if stage is not None and stage >= 2 and (values.has("pipeline") or planned):
        told = f"is {stage}; a pipeline runs with 0 and 1 only"
        remedy = "set it to 1, or remove `pipeline`"
        yield Finding("error", "pipeline-stage", (_Z, "stage"), told, _REFUSED, remedy)
    if values.off("managed_gradient_accumulation") and (stages > 1 or planned):
        told = "false is not for pipelines"
        yield Finding(
            "error", "unmanaged-accumulation", ("managed_gradient_accumulation",), told, _REFUSED, "remove it"
        )


def _groups(values: Values, context: Context) -> Iterator[Finding]:
    for at in (("zero_optimization", "zero_hpz_partition_size"), ("sequence_parallel_size",)):
        size = values.whole(*at)
        if size is not None and size > 1 and context.world_size is not None and context.world_size % size:
            told = f"is {size}, which does not divide {context.world_size} ranks"
            yield Finding("error", "degree", at, told, _REFUSED, "write a divisor of the number of ranks")


def _compile(values: Values) -> Iterator[Finding]:
    passes = values.get("compile", "passes")
    known = ("z1", "z3", "autosp", "autotp")
    for index, name in enumerate(passes if isinstance(passes, list) else ()):
        if name not in known:
            told = f"is no pass; there are {', '.join(known)}"
            yield Finding("error", "wrong-value", ("compile", "passes", index), told, _REFUSED, "remove it")
    if isinstance(passes, list) and "autotp" in passes and len(passes) > 1:
        told = "autotp does not go with other passes yet"
        yield Finding("error", "compile-passes", ("compile", "passes"), told, _REFUSED, "keep one")
    moves = ("offload_activation", "offload_opt_states", "offload_parameters")
    chosen = [name for name in moves if values.on("compile", name)]
    # offload_opt_states excludes offload_parameters alone (compile/config.py).
    if len(chosen) > 1:
        told = f"{' and '.join(chosen)} exclude each other"
        yield Finding("error", "compile-offload", ("compile", chosen[1]), told, "DeepCompile refuses it", "keep one")
