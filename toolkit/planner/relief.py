"""What a plan has to say to a run that ran out of memory all the same."""

from pathlib import Path

from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed
from toolkit.units import human_bytes

_TERMS_TOLD = 3
_MUCH_LESS = 0.9
"""Of the choice's predicted bytes: what is proposed needs less than that share."""


def expected_memory(plan: Plan) -> str:
    """The prediction, and the terms that make most of it."""
    largest = ", ".join(f"{words} {human_bytes(size)}" for words, size in plan.memory.largest_terms()[:_TERMS_TOLD])
    return f"The plan expects {human_bytes(plan.memory.total_bytes)} on the fullest rank, most of it {largest}."


def less_memory(plan: Plan, folder: Path) -> str:
    """What to do, by what the planner found when it planned.

    Args:
        plan: that needs too much.
        folder: of the run.
    """
    told = []
    smaller = [one for one in plan.pareto if one.memory.total_bytes < _MUCH_LESS * plan.memory.total_bytes]
    if smaller:
        best = smaller[0]  # the fastest
        command = plan.replan_command(plan.world_size, folder, fixed=Fixed.of(best.strategy))
        slower = best.time.step_seconds / plan.time.step_seconds
        needed = human_bytes(best.memory.total_bytes)
        told.append(f"{best.strategy.words} needs {needed} and {slower:.2g} times as long: `{command}`")
    if plan.strategy.micro_batch > 1:
        told.append("`faults.halve_micro_batch: true` in recipe.yaml goes on with half the micro-batch by itself")
    if not told:
        told.append("no strategy of this plan takes less: shorten seq_len, train adapters (lora), or take more devices")
    return "; or ".join(told)
