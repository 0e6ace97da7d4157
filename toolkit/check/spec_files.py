"""recipe.yaml and plan.json: what their own models refuse, with lines; and the two against each other."""

from collections.abc import Iterator
from typing import Any, cast

from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.nearest import nearest
from toolkit.errors import SpecError
from toolkit.planner.plan import Plan
from toolkit.specs.base import Spec, placed_faults
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import is_at_hand
from toolkit.specs.recipe import Recipe

_REMEDIES = {
    Recipe: "mend the line",
    Plan: "plans are not edited by hand: make it again with `toolkit plan ... --overwrite`",
}
_SHAPES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")


def check_recipe(content: Any) -> tuple[Recipe | None, list[Finding]]:
    """The recipe, or its faults."""
    made, found = _checked(Recipe, content)
    return cast("Recipe | None", made), found


def check_plan(content: Any) -> tuple[Plan | None, list[Finding]]:
    """The plan, or its faults."""
    made, found = _checked(Plan, content)
    plan = cast("Plan | None", made)
    return plan, found if plan is None else [*found, *_arithmetic(plan)]


def _arithmetic(plan: Plan) -> Iterator[Finding]:
    """Numbers of a plan that was edited by hand and do not multiply any more."""
    strategy, effect = plan.strategy, "the run is another than planned, or stops at its start"
    batch = strategy.micro_batch * strategy.grad_accum * strategy.layout.dp
    if batch != plan.workload.global_batch:
        told = f"{strategy.micro_batch} micro x {strategy.grad_accum} accumulation x {strategy.layout.dp} replicas"
        told += f" = {batch}, the workload has a global batch of {plan.workload.global_batch}"
        yield Finding("error", "plan", ("strategy",), told, effect, _REMEDIES[Plan])
    if plan.world_size != plan.cluster.world_size:
        told = f"the layout has {plan.world_size} ranks, the cluster {plan.cluster.world_size}"
        yield Finding("error", "plan", ("strategy", "layout"), told, effect, _REMEDIES[Plan])


def _checked(spec: type[Spec], content: Any) -> tuple[Any, list[Finding]]:
    made, faults = placed_faults(spec, content)
    found = []
    for fault in faults:
        # The message names what looks a little like it; only what looks very much like it is written.
        sure = fault.nearest and nearest(str(fault.location[-1]), [fault.nearest])
        edit = Edit("rename", sure) if sure and spec is Recipe else None
        rule = "unknown-key" if "unknown key" in fault.words else "wrong-value"
        effect = "`toolkit` refuses the file"
        remedy = f"write `{fault.nearest}`" if fault.nearest and spec is Recipe else _REMEDIES[spec]
        found.append(Finding("error", rule, fault.location, fault.words, effect, remedy, edit))
    return made, found


def recipe_against_plan(recipe: Recipe, plan: Plan) -> Iterator[Finding]:
    """What of the recipe is of another run than the plan; places are the recipe's."""
    effect = "`toolkit launch` refuses the run"
    for name in type(plan.workload).model_fields:
        given, planned = getattr(recipe.workload, name), getattr(plan.workload, name)
        if given != planned:
            at: Location = ("workload", name)
            told = f"is {given}, the plan is of {planned}"
            yield Finding("error", "plan", at, told, effect, "change it back, or plan again with --recipe")
    yield from _model(recipe, plan)
    for fault in plan.recipe_faults(recipe):
        yield Finding("error", "plan", (), fault, effect, "change the recipe, or plan again with --engine zero")
    for gap in plan.balance_faults(recipe) if recipe.monitoring.balance else ():
        yield Finding("error", "plan", ("monitoring", "balance"), gap, effect, "set it to false, or plan as it says")
    if recipe.data is None:
        told = "names no samples"
        remedy = "add `data: {train: FILE}`"
        yield Finding("note", "no-data", (), told, "planning needs none; `toolkit launch` stops without", remedy)


def _model(recipe: Recipe, plan: Plan) -> Iterator[Finding]:
    """Another model than the planned one; a folder or another name of the same shapes is none."""
    if recipe.model == plan.model.name or not is_at_hand(recipe.model):
        return
    try:
        given = ModelSpec.resolve(recipe.model)
    except SpecError as error:
        yield Finding("error", "plan", ("model",), str(error), "the run stops at its start", "name the planned model")
        return
    shapes = {name: (getattr(given, name), getattr(plan.model, name)) for name in _SHAPES}
    differing = [f"{name} {one}, planned {other}" for name, (one, other) in shapes.items() if one != other]
    if differing:
        told = f"is of other shapes than the plan's {plan.model.name}: {'; '.join(differing)}"
        effect = "memory and time are of another model, and the weights do not fit the layout"
        yield Finding("error", "plan", ("model",), told, effect, "change it back, or plan again with --model")
