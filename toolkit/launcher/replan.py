"""The plan a run goes on with where the present one cannot: fewer ranks, or less memory; the recipe allows either."""

import contextlib

from toolkit.errors import NoFeasiblePlan, SpecError
from toolkit.planner.api import plan_for
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.recipe import Recipe


def plan_on_fewer_ranks(plan: Plan, recipe: Recipe) -> Plan | None:
    """The plan for the most ranks below the present number that keep the global batch and the user's own decisions.

    None where the recipe does not allow it, nothing fits, or the run has several nodes.
    """
    least = recipe.faults.min_ranks
    if least is None or plan.cluster.num_nodes > 1:
        return None
    for ranks in range(plan.world_size - 1, least - 1, -1):
        smaller = {"name": f"{ranks}x{plan.cluster.device.name}", "gpus_per_node": ranks, "fast_domain": ranks}
        with contextlib.suppress(NoFeasiblePlan, SpecError):
            again = _plan_again(plan, cluster=plan.cluster.model_copy(update=smaller), fixed=plan.fixed)
            return again.model_copy(update={"fixed": plan.fixed})
    return None


def plan_on_nodes(plan: Plan, num_nodes: int) -> Plan | None:
    """The plan for that many of its nodes, which keeps the global batch and the user's own decisions.

    None where nothing fits.
    """
    name = plan.cluster.name.replace(f"{plan.cluster.num_nodes}x", f"{num_nodes}x", 1)
    smaller = plan.cluster.model_copy(update={"name": name, "num_nodes": num_nodes})
    with contextlib.suppress(NoFeasiblePlan, SpecError):
        again = _plan_again(plan, cluster=smaller, fixed=plan.fixed)
        return again.model_copy(update={"fixed": plan.fixed})
    return None


def plan_with_half_the_micro_batch(plan: Plan, recipe: Recipe) -> Plan | None:
    """The same strategy with half the samples per forward pass, and the same global batch.

    None where the recipe does not allow it, or one sample is all there is.
    """
    now = plan.strategy
    if not recipe.faults.halve_micro_batch or now.micro_batch == 1:
        return None
    half = {"micro_batch": now.micro_batch // 2}
    with contextlib.suppress(NoFeasiblePlan, SpecError):
        again = _plan_again(plan, cluster=plan.cluster, fixed=Fixed.of(now).model_copy(update=half))
        # What the user had decided stays apart from what is held fast here, for the next time the run is planned.
        return again.model_copy(update={"fixed": plan.fixed.model_copy(update=half)})
    return None


def recipe_for(plan: Plan, recipe: Recipe) -> Recipe:
    """The recipe without shares in proportion to speed where this smaller plan has none: better than not to go on."""
    config = recipe.monitoring
    if not config.balance or not plan.balance_faults(recipe, zero_stage=plan.strategy.zero_stage):
        return recipe
    return recipe.model_copy(update={"monitoring": config.model_copy(update={"balance": False})})


def _plan_again(plan: Plan, *, cluster: ClusterSpec, fixed: Fixed) -> Plan:
    """Megatron stays Megatron and DeepSpeed stays DeepSpeed: the recipe was looked at with the one that runs."""
    engine, others = plan.strategy.engine, (*(fixed.without or ()), "mcore")
    kept = {"without": others} if plan.strategy.on_deepspeed and fixed.engine is None else {"engine": engine}
    return plan_for(
        plan.model,
        cluster,
        work=plan.workload.model_dump(),
        fixed={**fixed.given(), **kept},
        gradient_clipping=plan.gradient_clipping,
        objective=plan.objective,
    )
