"""How a step runs: one engine per library, none knows another; `engine_for` picks."""

from toolkit.engines.base import Engine
from toolkit.engines.common.groups import parameter_groups
from toolkit.engines.common.machine import check_installed
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

__all__ = ["Engine", "engine_for", "parameter_groups"]


def engine_for(plan: Plan, recipe: Recipe, *, model: UnloadedModel, folder: RunFolder) -> Engine:
    """Prepare the model on all ranks with the engine that the plan names.

    Args:
        plan: the decisions.
        recipe: the optimizer's numbers and the seed.
        model: a `transformers` causal language model (or a peft model around one) with its weights on disk.
        folder: where the engine's own configuration lies.

    Raises:
        EngineError: the processes do not fit the plan, or the engine cannot start.
    """
    match plan.strategy.engine:
        case "zero":
            from toolkit.engines.zero.engine import ZeroEngine  # the only engine imported: each needs its own library

            return ZeroEngine(plan, recipe, model=model, folder=folder)
        case "pipeline":
            from toolkit.engines.pipeline.engine import PipelineEngine

            return PipelineEngine(plan, recipe, model=model, folder=folder)
        case "mcore":
            check_installed("megatron-core", extra="megatron")
            from toolkit.engines.mcore.engine import MegatronEngine

            return MegatronEngine(plan, recipe, model=model, folder=folder)
