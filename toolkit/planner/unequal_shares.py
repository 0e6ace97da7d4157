"""Where a slow replica can have fewer micro-batches than the others: what is against it, of layouts and of recipes.

Read off DeepSpeed 0.19.8: runtime/engine.py (`allreduce_gradients`, `set_gradient_accumulation_boundary`) and
runtime/zero/stage_1_and_2.py.
"""

from collections.abc import Iterator

from toolkit.planner.strategy import Strategy
from toolkit.specs.recipe import Recipe

LAST_STAGE = 1
"""ZeRO-2 and 3 reduce gradients in the backward pass of every micro-batch, so that all ranks need as many."""


def balance_gaps(recipe: Recipe, strategy: Strategy, *, zero_stage: int | None) -> Iterator[str]:
    """What is against unequal shares, each as 'given: what is at odds; what to use'.

    Args:
        recipe: of the run.
        strategy: that was planned.
        zero_stage: the one that runs; None where it is not known yet.
    """
    dp, grad_accum = strategy.layout.dp, strategy.grad_accum
    if strategy.engine != "zero":
        needs = f"engine {strategy.engine} runs as many micro-batches on every rank"
        yield f"{needs}; plan again with --engine zero --zero 1"
        return
    if zero_stage is not None and zero_stage > LAST_STAGE:
        yield f"zero_stage={zero_stage} sums gradients in every micro-batch, all need as many; plan again with --zero 1"
    if dp == 1:
        yield "dp=1: one replica has nobody to share with; plan for two or more, or set it to false"
    elif grad_accum == 1:
        yield (
            "grad_accum=1: every replica needs one micro-batch, none is left to deal out; plan again with a smaller "
            "--micro-batch or a larger --global-batch: with grad_accum=8 shares move by an eighth"
        )
    if (steps := recipe.communication.local_steps) > 1:
        yield f"communication.local_steps={steps} weighs replicas alike, whatever rows they had; use local_steps 1"
    if recipe.workload.method != "full" and recipe.lora.dropout > 0:
        # Each rank draws its own masks: another share draws others, and who is slow would decide what is learnt.
        yield f"lora.dropout={recipe.lora.dropout:g} is drawn by rank, results would depend on who is slow; use 0"
