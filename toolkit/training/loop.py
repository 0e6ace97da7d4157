"""The training loop: blind to engine, layout and method."""

import math
from collections.abc import Sequence
from typing import Protocol

from toolkit.engines.base import Batch, Engine
from toolkit.errors import EngineError
from toolkit.specs.recipe import Recipe
from toolkit.training.schedule import learning_rate
from toolkit.training.telemetry import Telemetry


class Steps(Protocol):
    """This rank's micro-batches of any optimizer step, by number."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""

    def step(self, index: int) -> Sequence[Batch]:
        """Micro-batches of optimizer step `index`, counted from 0 over all epochs."""


def num_steps(recipe: Recipe, batches: Steps) -> int:
    """Optimizer steps of the run."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    return max(math.ceil((recipe.epochs or 1.0) * batches.steps_per_epoch), 1)


def train(engine: Engine, batches: Steps, *, recipe: Recipe, steps: int, telemetry: Telemetry) -> None:
    """Run `steps` optimizer steps.

    Raises:
        EngineError: the loss is no longer a number; the weights of that step are not worth keeping.
    """
    applied = 0
    telemetry.start_clock()
    for index in range(steps):
        lr = learning_rate(recipe.schedule, applied, num_steps=steps, peak=recipe.optimizer.learning_rate)
        result = engine.train_step(batches.step(index), learning_rate=lr)
        applied += not result.skipped
        telemetry.record(index + 1, result, learning_rate=lr, epoch=(index + 1) / batches.steps_per_epoch)
        if math.isfinite(result.loss):
            continue
        if index == 0:
            raise EngineError(
                f"the loss is {result.loss} before any update: the model's own weights or the data hold NaN or Inf, "
                "or overflow in fp16; check the checkpoint, or train in bf16"
            )
        raise EngineError(
            f"the loss is {result.loss} at step {index + 1} of {steps}; "
            f"lower learning_rate (now {lr:.1e}), or train in bf16 if this is fp16"
        )
