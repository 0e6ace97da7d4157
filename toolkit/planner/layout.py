"""One layout that is given whole: whether an engine can run it, what it takes, and whether it fits."""

import math

from pydantic import Field

from toolkit.errors import SpecError
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.engines import choice, divisors, faults, nearest, runs_today
from toolkit.planner.explain import binding_constraint, fit_words, overshoot
from toolkit.planner.knobs import helpful_changes
from toolkit.planner.memory import estimate_memory
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed, Request, workload_faults
from toolkit.planner.resolve import setup_of
from toolkit.planner.strategy import EngineName, Layout, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


class GivenLayout(Fixed):
    """A layout as the user gives it; what is left out is 1, none, or follows from the ranks and the batch."""

    dp: int | None = Field(default=None, gt=0)
    """Data-parallel replicas; what is left of the ranks where not given."""
    grad_accum: int | None = Field(default=None, gt=0)
    """Forward passes per optimizer step; what is left of the global batch where not given."""

    @property
    def likely_engine(self) -> EngineName:
        """The given engine, or the simplest that has what is given."""
        if self.engine is not None:
            return self.engine
        if (self.vpp or 1) > 1 or (self.cp or 1) > 1 or self.activation_checkpointing == "selective":
            return "mcore"
        return "pipeline" if (self.pp or 1) > 1 else "zero"


def judge_layout(model: ModelSpec, cluster: ClusterSpec, workload: Workload, *, given: GivenLayout) -> Plan:
    """A plan of the layout, also where it does not fit; the first of its reasons is the verdict.

    Raises:
        SpecError: numbers that contradict each other, or that no engine can run; all of them.
    """
    strategy = _strategy(cluster, workload, given)
    setup = setup_of(model, cluster, workload=workload, strategy=strategy)
    request = Request(model, cluster, workload, _pins(strategy))
    if found := [*workload_faults(request), *(fault.words for fault in faults(strategy.engine, setup))]:
        raise SpecError("\n".join(dict.fromkeys(found)))
    memory = estimate_memory(setup)
    if overshoot(memory, cluster) <= 1:
        told = fit_words(memory, cluster)
    else:
        told = [f"It does not fit: {binding_constraint(memory, cluster)}.", *helpful_changes(request, memory)]
    if later := runs_today(strategy, workload.method):
        told.append(f"Planned, not written: {later}.")
    stages = range(setup.pp) if setup.pp > 1 else ()
    return Plan(
        model=model,
        cluster=cluster,
        workload=workload,
        strategy=strategy,
        memory=memory,
        time=estimate_time(setup),
        gradient_clipping=1.0,
        fixed=request.fixed,
        reasons=tuple(told),
        stage_memory=tuple(estimate_memory(setup, stage) for stage in stages),
        judged=1,
    )


def _strategy(cluster: ClusterSpec, workload: Workload, given: GivenLayout) -> Strategy:
    sizes = {name: getattr(given, name) or 1 for name in ("tp", "pp", "sp", "cp")}
    replica, world, batch = math.prod(sizes.values()), cluster.world_size, workload.global_batch
    words = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "tp=1"
    if world % replica:
        raise SpecError(f"{words} does not divide {world} ranks; use {choice(divisors(world))}")
    dp, micro = given.dp or world // replica, given.micro_batch or 1
    if dp * replica != world:
        ranks = f"dp={dp} x {words} is {dp * replica} ranks, the cluster has {world}"
        raise SpecError(f"{ranks}; use dp={world // replica}")
    if batch % (dp * micro):
        unit = f"{dp} replicas x micro_batch={micro}"
        raise SpecError(f"global_batch={batch} is not a multiple of {unit}; use {nearest(batch, dp * micro)}")
    accum = batch // (dp * micro)
    if given.grad_accum not in (None, accum):
        product = f"{dp} replicas x micro_batch={micro} x grad_accum={given.grad_accum}"
        raise SpecError(f"{product} is not global_batch={batch}; use grad_accum={accum}")
    return Strategy(
        engine=given.likely_engine,
        layout=Layout(dp=dp, **sizes),
        zero_stage=1 if given.zero_stage is None else given.zero_stage,
        offload=given.offload or "none",
        offload_to=given.offload_to or "cpu",
        activation_checkpointing=given.activation_checkpointing or "none",
        vpp=given.vpp or 1,
        micro_batch=micro,
        grad_accum=accum,
    )


def _pins(strategy: Strategy) -> Fixed:
    """Everything of a strategy that is not its default, so that changes may be tried by taking one back."""
    layout = strategy.layout
    degrees = {"tp": layout.tp, "pp": layout.pp, "vpp": strategy.vpp, "sp": layout.sp, "cp": layout.cp}
    return Fixed(
        engine=strategy.engine,
        **{name: size for name, size in degrees.items() if size > 1},
        zero_stage=strategy.zero_stage,
        micro_batch=strategy.micro_batch,
        offload=strategy.offload,
        offload_to=None if strategy.offload == "none" else strategy.offload_to,
        activation_checkpointing=strategy.activation_checkpointing,
    )
