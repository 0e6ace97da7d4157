"""Whether a ds_config.json fits a model on a cluster, by the planner's own laws."""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.check.context import Asked, Values
from toolkit.check.finding import Finding
from toolkit.check.zero_rules import device_of, stage_of
from toolkit.errors import SpecError
from toolkit.planner import api
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec


def memory_verdict(values: Values, asked: Asked) -> Iterator[Finding]:
    """One finding: it fits with so much, or lacks so much; a layout that no engine runs is an error with the reasons.

    Raises:
        SpecError: the model or the cluster is not known.
    """
    machines = ClusterSpec.resolve(asked.cluster)
    model = ModelSpec.resolve(asked.model)
    layout = layout_of(values)
    micro, accum = layout["micro_batch"], layout["grad_accum"]
    replicas = max(1, machines.world_size // layout["tp"])
    work: dict[str, Any] = {"seq_len": asked.seq_len, "global_batch": micro * accum * replicas, "method": asked.method}
    work["precision"] = precision_of(values)
    layout["activation_checkpointing"] = asked.checkpointing
    at = ("zero_optimization",)
    try:
        made = api.estimate(model, machines, work=work, strategy=layout)
    except SpecError as error:
        told = f"no engine runs it on {asked.cluster}: {' '.join(str(error).splitlines())}"
        yield Finding("error", "memory", at, told, "the run stops before its first step", "change the layout")
        return
    verdict = made.reasons[0]
    told = f"{verdict} ({asked.model}, {asked.cluster}, {asked.seq_len} tokens, micro-batch {micro})"
    if verdict.startswith("It does not fit"):
        remedy = " ".join(made.reasons[1:2]) or "offload, shard more or divide the model"
        yield Finding("error", "memory", at, told, "out of memory in the first steps", remedy)
        return
    yield Finding("note", "memory", at, told, "", "")


def layout_of(values: Values) -> dict[str, Any]:
    """The values of a layout, as `estimate` takes them, that a ds_config.json stands for."""
    stage = stage_of(values)
    moved = {part: device_of(values, part) for part in ("offload_optimizer", "offload_param")}
    device = "nvme" if "nvme" in moved.values() else "cpu"
    offload = "all" if moved["offload_param"] in ("cpu", "nvme") else "none"
    offload = "optimizer" if offload == "none" and moved["offload_optimizer"] in ("cpu", "nvme") else offload
    return {
        "engine": "zero",
        "zero_stage": 0 if stage is None else min(max(stage, 0), 3),
        "offload": offload,
        **({"offload_to": device} if offload != "none" else {}),
        "tp": max(values.whole("tensor_parallel", "autotp_size") or 1, 1),
        "micro_batch": max(values.whole("train_micro_batch_size_per_gpu") or 1, 1),
        "grad_accum": max(values.whole("gradient_accumulation_steps") or 1, 1),
    }


def precision_of(values: Values) -> str:
    """The precision of matrix products that it stands for."""
    if values.on("fp16", "enabled"):
        return "fp16"
    chosen: Mapping[str, Any] = values.content
    named = any(name in chosen for name in ("bf16", "fp16", "bfloat16", "torch_autocast"))
    on = values.on("torch_autocast", "enabled") or values.get("bf16", "enabled") in (True, "auto")
    return "bf16" if on or not named else "fp32"
