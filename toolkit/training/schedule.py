"""Learning rate as a pure function of the optimizer step; the toolkit owns it, no library steps it."""

import math

from toolkit.specs.recipe import ScheduleConfig

DEFAULT_WARMUP_RATIO = 0.03


def num_warmup_steps(schedule: ScheduleConfig, num_steps: int) -> int:
    """Warm-up in optimizer steps, whichever way it was given."""
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, num_steps)
    ratio = DEFAULT_WARMUP_RATIO if schedule.warmup_ratio is None else schedule.warmup_ratio
    return math.ceil(ratio * num_steps)


def learning_rate(schedule: ScheduleConfig, step: int, *, num_steps: int, peak: float) -> float:
    """Learning rate of optimizer step `step` (counted from 0, skipped fp16 steps not counted).

    Warm-up step i of w runs at peak * (i + 1) / w; after it the curve falls from the peak towards `min_ratio * peak`,
    which it would reach one step after the last. So no step is wasted at 0.
    """
    warmup = num_warmup_steps(schedule, num_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.kind == "constant":
        return peak
    progress = (step - warmup) / (num_steps - warmup)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * fall)
