"""A ds_config.json against the plan beside it: what `toolkit launch` refuses later, or uses and tells.

The engine checks the same once more when it starts (toolkit/engines/ds/config.py).
"""

from collections.abc import Iterator

from toolkit.check.context import Context, PlanFacts, Values
from toolkit.check.finding import Finding, Location
from toolkit.check.value import shown
from toolkit.check.zero_rules import device_of, stage_of

_REFUSED = "`toolkit launch` refuses the file"


def against_plan(values: Values, context: Context) -> Iterator[Finding]:
    """Values that contradict the plan, or differ from it."""
    plan = context.plan
    if plan is None or context.read_by != "toolkit":
        return
    if plan.engine == "mcore":
        yield Finding("note", "plan", (), "the plan has engine mcore, which reads no ds_config.json", "", "remove it")
        return
    numbers = (("train_micro_batch_size_per_gpu", "micro_batch"), ("gradient_accumulation_steps", "grad_accum"))
    for name, planned in numbers:
        given, wanted = values.get(name), plan.whole("strategy", planned)
        if given is None:
            told = f"`{name}` is missing; the plan has {wanted}"
            yield Finding("error", "plan", (name,), told, _REFUSED, f"write {wanted}")
        elif wanted is not None and given != wanted and given != "auto":
            told = f"is {shown(given)}, the plan has {wanted}"
            remedy = "change it back, or plan again with --micro-batch or --global-batch"
            yield Finding("error", "plan", (name,), told, _REFUSED, remedy)
    yield from _layout(values, plan)
    yield from _differs(values, plan)


def _layout(values: Values, plan: PlanFacts) -> Iterator[Finding]:
    size = max(values.whole("tensor_parallel", "autotp_size") or 1, 1)
    at: Location = ("tensor_parallel", "autotp_size")
    if plan.engine == "zero" and size != plan.tp:
        told, remedy = f"is {size}, the plan has tp={plan.tp}", f"plan again with --tp {size}"
        yield Finding("error", "plan", at, told, _REFUSED, remedy)
    stage = stage_of(values)
    if plan.engine == "zero" and plan.tp > 1 and stage == 0:
        told = "is 0; tensor parallelism runs with 1, 2 and 3"
        effect = "DeepSpeed clips by the norm of one rank's part"
        yield Finding("error", "plan", ("zero_optimization", "stage"), told, effect, "write 1")
    if plan.engine == "pipeline" and stage not in (None, 1):
        told, effect = f"is {stage}; pipelines of this toolkit run with 1", "stage 0 clips each part by its own norm"
        yield Finding("error", "plan", ("zero_optimization", "stage"), told, effect, "write 1")
    if plan.engine == "pipeline" and plan.tp > 1:
        for name in ("pipe_partitioned", "grad_partitioned"):
            if not values.off("pipeline", name):
                told = f"`{name}` must be false: micro-batches differ in width"
                yield Finding("error", "plan", ("pipeline", name), told, _REFUSED, "write false")
    total, wanted = values.whole("train_batch_size"), plan.whole("workload", "global_batch")
    if total is not None and wanted is not None and plan.tp == 1 and total != wanted:
        told = f"is {total}, the plan has a global batch of {wanted}"
        yield Finding("error", "plan", ("train_batch_size",), told, _REFUSED, "remove the key")


def _differs(values: Values, plan: PlanFacts) -> Iterator[Finding]:
    """What may be edited by hand."""
    effect, remedy = "the file counts; the plan's predictions are of another run", "nothing, where it is meant"
    stage, planned = stage_of(values), plan.whole("strategy", "zero_stage")
    if stage is not None and planned is not None and stage != planned:
        told = f"is {stage}, planned {planned}"
        yield Finding("note", "plan", ("zero_optimization", "stage"), told, effect, remedy)
    clip, wanted = values.number("gradient_clipping"), plan.number("gradient_clipping")
    if clip is not None and wanted is not None and clip != wanted:
        yield Finding("note", "plan", ("gradient_clipping",), f"is {clip:g}, planned {wanted:g}", effect, remedy)
    moved = "all" if device_of(values, "offload_param") != "none" else "none"
    moved = moved if moved == "all" or device_of(values, "offload_optimizer") == "none" else "optimizer"
    if plan.get("strategy", "offload") not in (None, moved):
        told = f"offload is {moved}, planned {plan.get('strategy', 'offload')}"
        yield Finding("note", "plan", ("zero_optimization",), told, effect, remedy)
    runs = "bf16" if values.on("bf16", "enabled") else "fp16" if values.on("fp16", "enabled") else "fp32"
    runs = "bf16" if runs == "fp32" and values.on("torch_autocast", "enabled") else runs
    if plan.get("workload", "precision") not in (None, runs):
        told = f"precision is {runs}, planned {plan.get('workload', 'precision')}"
        yield Finding("note", "plan", ("bf16",), told, effect, remedy)
