"""How a step runs: one engine per library, none knows another; `engine_for` picks."""

from typing import Any

from toolkit.engines.base import Engine
from toolkit.errors import EngineError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


def engine_for(plan: Plan, recipe: Recipe, *, model: Any, folder: RunFolder) -> Engine:
    """Prepare the model on all ranks with the engine that the plan names.

    Args:
        plan: the decisions.
        recipe: the optimizer's numbers and the seed.
        model: a loaded `transformers` causal language model (or a peft model around one) on CPU.
        folder: where the engine's own configuration lies.

    Raises:
        EngineError: the processes do not fit the plan, or the engine cannot start.
    """
    match plan.strategy.engine:
        case "zero":
            from toolkit.engines.zero.engine import ZeroEngine  # the only engine imported: each needs its own library

            return ZeroEngine(plan, recipe, model=model, folder=folder)
        case later:
            raise EngineError(f"engine={later}: this release runs engine=zero only; plan again without it")
