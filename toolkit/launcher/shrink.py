"""A run on fewer ranks of its machine: where starting all of them again is no help, and the recipe allows it."""

import contextlib

from toolkit.errors import NoFeasiblePlan, SpecError
from toolkit.planner.api import plan_for
from toolkit.planner.plan import Plan
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
            return plan_for(
                plan.model,
                plan.cluster.model_copy(update=smaller),
                work=plan.workload.model_dump(),
                fixed=plan.fixed.given(),
                gradient_clipping=plan.gradient_clipping,
                objective=plan.objective,
            )
    return None
