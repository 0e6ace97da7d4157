"""Whether the learning rate moves once per optimizer step: its length counted a second time, from the rows."""

import math

from toolkit.preflight.outcome import Outcome, judged
from toolkit.preflight.setting import Setting
from toolkit.specs.schedule import learning_rate, num_warmup_steps
from toolkit.training.loop import num_steps


def check_schedule(setting: Setting) -> Outcome:
    """Steps of an epoch, and the rate at its first, highest and last step."""
    recipe, plan, batches = setting.recipe, setting.plan, setting.batches
    packs = setting.data.packs
    rows = len(setting.data.train if packs is None else packs.tokens)
    per_epoch = math.ceil(rows / plan.workload.global_batch)
    steps, peak = num_steps(recipe, batches), recipe.optimizer.learning_rate
    rates = [learning_rate(recipe.schedule, step, num_steps=steps, peak=peak) for step in range(steps)]
    highest = max(range(steps), key=lambda step: rates[step])
    warmup = num_warmup_steps(recipe.schedule, steps)
    said = (
        f"{steps:,} steps, {per_epoch:,} per epoch; learning rate {rates[0]:.2e} at step 1, {rates[highest]:.2e} at "
        f"{highest + 1:,}, {rates[-1]:.2e} at the last; warm-up {warmup:,} steps"
    )
    fault = None
    if batches.steps_per_epoch != per_epoch:
        fault = (
            f"an epoch has {batches.steps_per_epoch:,} steps here, {rows:,} rows in global batches of "
            f"{plan.workload.global_batch} are {per_epoch:,}: the schedule would be "
            f"{per_epoch / batches.steps_per_epoch:.2g} times as fast as planned"
        )
    elif max(rates) > peak * (1 + 1e-9):
        fault = f"the rate rises to {max(rates):.2e}, the recipe's is {peak:.2e}"
    return judged("schedule", said, fault=fault, remedy="give `max_steps` and a schedule in optimizer steps")
