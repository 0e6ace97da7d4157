"""recipe.yaml and plan.json: what their own models refuse, with lines; and the two against each other."""

from collections.abc import Iterator
from typing import Any, cast

from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.nearest import nearest
from toolkit.planner.plan import Plan
from toolkit.specs.base import Spec, placed_faults
from toolkit.specs.recipe import Recipe

_REMEDIES = {
    Recipe: "mend the line",
    Plan: "plans are not edited by hand: make it again with `toolkit plan ... --overwrite`",
}


def check_recipe(content: Any) -> tuple[Recipe | None, list[Finding]]:
    """The recipe, or its faults."""
    made, found = _checked(Recipe, content)
    return cast("Recipe | None", made), found


def check_plan(content: Any) -> tuple[Plan | None, list[Finding]]:
    """The plan, or its faults."""
    made, found = _checked(Plan, content)
    return cast("Plan | None", made), found


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
    for fault in plan.recipe_faults(recipe):
        yield Finding("error", "plan", (), fault, effect, "change the recipe, or plan again with --engine zero")
    if recipe.data is None:
        told = "names no samples"
        remedy = "add `data: {train: FILE}`"
        yield Finding("note", "no-data", (), told, "planning needs none; `toolkit launch` stops without", remedy)
