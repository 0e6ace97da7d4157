"""`toolkit.plan`: names in, Plan out; what the command line and notebooks call."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import SpecError
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Precision, Workload


def plan(
    model: str | Path | ModelSpec,
    cluster: str | Path | ClusterSpec | None = None,
    *,
    seq_len: int,
    global_batch: int,
    gradient_clipping: float = 1.0,
    **choices: Any,
) -> Plan:
    """Choose how to train `model` on `cluster`.

    Args:
        model: a folder, a config.json, a hub id, a catalog name or a spec.
        cluster: `8xA100-80GB`, `2x8xH100-80GB`, `2xcpu`, a YAML file or a spec; this machine if None.
        seq_len: longest sequence in tokens.
        global_batch: samples per optimizer step over all ranks.
        gradient_clipping: largest global gradient norm.
        **choices: `method`, `lora_rank` and `precision` of the workload; `zero_stage`, `micro_batch`, `tp`, `pp`,
            `offload`, ... fix parts of the strategy.

    Raises:
        SpecError: something given is wrong.
        NoFeasiblePlan: nothing fits; the message holds the nearest candidate and what would make it fit.
    """
    work = {name: choices.pop(name) for name in Workload.model_fields if name in choices}
    work |= {"seq_len": seq_len, "global_batch": global_batch}
    return plan_for(model, cluster, work=work, fixed=choices, gradient_clipping=gradient_clipping)


def plan_for(
    model: str | Path | ModelSpec,
    cluster: str | Path | ClusterSpec | None,
    *,
    work: Mapping[str, Any],
    fixed: Mapping[str, Any],
    gradient_clipping: float = 1.0,
) -> Plan:
    """`plan` with the workload's values and the fixed choices apart, as a recipe and the command line have them.

    Raises:
        SpecError: something given is wrong.
        NoFeasiblePlan: nothing fits.
    """
    if not 0 < gradient_clipping < math.inf:
        raise SpecError(f"gradient_clipping is {gradient_clipping}, needs a number above 0; 1.0 is customary")
    spec = model if isinstance(model, ModelSpec) else ModelSpec.resolve(model)
    if isinstance(cluster, ClusterSpec):
        machines = cluster
    else:
        machines = ClusterSpec.detect() if cluster is None else ClusterSpec.resolve(str(cluster))
    workload = Workload.parse({"precision": default_precision(machines), **work}, source="workload")
    choices = Fixed.parse(fixed, source="choices")
    return make_plan(spec, machines, workload, fixed=choices, gradient_clipping=gradient_clipping)


def default_precision(cluster: ClusterSpec) -> Precision:
    """bf16 where the device has it, fp16 on older GPUs, fp32 on CPUs (whose bf16 is emulated and slow)."""
    if cluster.device.kind == "cpu":
        return "fp32"
    return "bf16" if cluster.device.supports_bf16 else "fp16"
