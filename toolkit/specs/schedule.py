"""Learning rate over optimizer steps: what the recipe says of it, and the rate as a pure function of the step.

The toolkit owns it, no library steps it: a run that goes on asks for the rate of its step, and a schedule can be drawn
before the run. Two kinds watch the run: their factor is what `training.rates` has made of it so far.
"""

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec

ScheduleKind = Literal[
    "constant",
    "linear",
    "cosine",
    "cosine_restarts",
    "polynomial",
    "wsd",
    "inverse_sqrt",
    "step",
    "exponential",
    "triangular",
    "triangular2",
    "one_cycle",
    "plateau",
    "relative_change",
]

OPTIONS: dict[str, tuple[ScheduleKind, ...]] = {
    "cycles": ("cosine_restarts", "triangular", "triangular2"),
    "power": ("polynomial",),
    "decay_ratio": ("wsd",),
    "decay": ("wsd",),
    "timescale": ("inverse_sqrt",),
    "every": ("step", "exponential"),
    "gamma": ("step", "exponential"),
    "div_factor": ("one_cycle",),
    "final_div_factor": ("one_cycle",),
    "factor": ("plateau",),
    "patience": ("plateau",),
    "threshold": ("plateau",),
    "cooldown": ("plateau",),
    "target": ("relative_change",),
    "measure_every": ("relative_change",),
    "max_adjustment": ("relative_change",),
}
"""Which kinds look at an option; the others refuse a value that is not its default."""

WATCHING: tuple[ScheduleKind, ...] = ("plateau", "relative_change")
"""Kinds whose rate depends on the run: after the warm-up it is the peak times a factor between `min_ratio` and 1."""

_CYCLIC: tuple[ScheduleKind, ...] = ("triangular", "triangular2")
_WARMUP_RATIO = 0.03
_WARMUP_RATIOS: dict[ScheduleKind, float] = {"one_cycle": 0.3, **dict.fromkeys(_CYCLIC, 0.0)}


class ScheduleConfig(Spec):
    """Learning rate over optimizer steps: linear warm-up, then the named curve down to `min_ratio`."""

    kind: ScheduleKind = "cosine"
    """Curve after the warm-up."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Warm-up in optimizer steps; give this or `warmup_ratio`."""
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Warm-up as a part of all steps; 0.03 where neither is given, 0.3 in `one_cycle`, none in `triangular`."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """Part of the peak that the curve falls towards by the end of the run, and never falls below; the bottom of
    `triangular` cycles."""
    cycles: int = Field(default=1, gt=0)
    """Cycles after the warm-up, of `cosine_restarts` and `triangular`."""
    power: float = Field(default=1.0, gt=0)
    """Of `polynomial`: 1 is linear, 2 falls fast first."""
    decay_ratio: float = Field(default=0.1, gt=0, le=1)
    """Of `wsd` (warm-up, stable, decay): the part of all steps, at their end, in which the rate falls."""
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    """Of `wsd`: how it falls there; sqrt is 1 - sqrt(progress)."""
    timescale: int | None = Field(default=None, gt=0)
    """Of `inverse_sqrt`: steps after which the rate has fallen to 1 / sqrt(2); the warm-up where it is not given, or
    10,000 without one."""
    every: int = Field(default=1000, gt=0)
    """Steps in which the rate is multiplied by `gamma`: at once in `step`, bit by bit in `exponential`."""
    gamma: float = Field(default=0.5, gt=0, lt=1)
    """Factor of `step` and `exponential`."""
    div_factor: float = Field(default=25.0, gt=1)
    """Of `one_cycle`: the peak over the first rate."""
    final_div_factor: float = Field(default=1e4, gt=1)
    """Of `one_cycle`: the first rate over the last one."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """Of `plateau`: what the rate is multiplied by when the held-out loss no longer falls."""
    patience: int = Field(default=2, ge=0)
    """Of `plateau`: evaluations in a row without a better held-out loss before the one that lowers the rate."""
    threshold: float = Field(default=1e-4, ge=0, lt=1)
    """Of `plateau`: part of the best loss by which another must be lower to count as better."""
    cooldown: int = Field(default=0, ge=0)
    """Of `plateau`: evaluations after a lower rate that do not count."""
    target: float = Field(default=1e-3, gt=0)
    """Of `relative_change`: norm of a step's update over the norm of the weights that the rate is led to."""
    measure_every: int = Field(default=10, gt=0)
    """Of `relative_change`: updates between two measurements; each copies the weights and counts them twice."""
    max_adjustment: float = Field(default=1.25, gt=1)
    """Of `relative_change`: largest factor by which one measurement raises or lowers the rate."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps and warmup_ratio are both given; keep one of them")
        for name, kinds in OPTIONS.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of kind {' and '.join(kinds)}, kind is {self.kind}; leave it out")
        if self.kind in _CYCLIC and self.min_ratio == 0:
            raise ValueError(
                f"kind {self.kind} needs min_ratio, the bottom of its cycles; steps at a rate of 0 are lost"
            )
        if self.kind in _CYCLIC and (self.warmup_steps or self.warmup_ratio):
            raise ValueError(f"kind {self.kind} rises by itself; leave the warm-up out")
        if self.kind == "one_cycle" and self.min_ratio:
            raise ValueError("min_ratio is given; one_cycle ends at 1 / (div_factor x final_div_factor), leave it out")
        return self


def num_warmup_steps(schedule: ScheduleConfig, num_steps: int) -> int:
    """Warm-up in optimizer steps, whichever way it was given."""
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, num_steps)
    return math.ceil(warmup_ratio(schedule) * num_steps)


def warmup_ratio(schedule: ScheduleConfig) -> float:
    """Part of all steps that the warm-up takes where no number of steps is given."""
    default = _WARMUP_RATIOS.get(schedule.kind, _WARMUP_RATIO)
    return default if schedule.warmup_ratio is None else schedule.warmup_ratio


def learning_rate(schedule: ScheduleConfig, step: int, *, num_steps: int, peak: float, factor: float = 1.0) -> float:
    """Learning rate of optimizer step `step` (counted from 0, skipped fp16 steps not counted).

    Warm-up step i of w runs at peak * (i + 1) / w; after it the curve falls from the peak towards `min_ratio * peak`,
    which it would reach one step after the last. So no step is wasted at 0. `one_cycle` has a rise of its own.

    Args:
        schedule: of the recipe.
        step: which one.
        num_steps: of the whole run.
        peak: largest rate.
        factor: of the kinds that watch the run, as it stands.
    """
    warmup = num_warmup_steps(schedule, num_steps)
    if schedule.kind == "one_cycle":
        return peak * _one_cycle(schedule, step, num_steps=num_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.kind in WATCHING:
        return peak * max(schedule.min_ratio, factor)
    since, left = step - warmup, num_steps - warmup
    if schedule.kind in _BY_STEPS:
        return peak * max(schedule.min_ratio, _BY_STEPS[schedule.kind](schedule, since, warmup))
    fall = _BY_PROGRESS[schedule.kind](schedule, since / left, num_steps / left)
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * fall)


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _wsd(schedule: ScheduleConfig, progress: float, whole: float) -> float:
    length = min(schedule.decay_ratio * whole, 1.0)
    into = max(progress - (1 - length), 0.0) / length
    return {"linear": 1 - into, "cosine": _cosine(into), "sqrt": 1 - math.sqrt(into)}[schedule.decay]


def _triangle(schedule: ScheduleConfig, progress: float) -> float:
    """From the bottom to the top and back, per cycle (Smith 2017, 1506.01186)."""
    return 1 - abs(2 * (progress * schedule.cycles % 1) - 1)


def _smaller_triangle(schedule: ScheduleConfig, progress: float) -> float:
    """Each cycle half as high as the one before it."""
    return _triangle(schedule, progress) / 2.0 ** math.floor(progress * schedule.cycles)


def _inverse_sqrt(schedule: ScheduleConfig, since: int, warmup: int) -> float:
    timescale = schedule.timescale or warmup or 10_000
    return math.sqrt(timescale / (timescale + since))


def _one_cycle(schedule: ScheduleConfig, step: int, *, num_steps: int) -> float:
    """Rise and fall of half a cosine each, the last step at the end of the fall (Smith & Topin 2017, 1708.07120).

    As torch has it, the top may lie between two steps, or before the first.
    """
    if num_steps == 1:
        return 1.0  # torch takes the only step at the end of the fall, where it moves nothing
    first = 1 / schedule.div_factor
    ratio = warmup_ratio(schedule)
    rise = ratio * num_steps if schedule.warmup_steps is None else min(schedule.warmup_steps, num_steps)
    top = rise - 1
    if step <= top:
        return 1 + (first - 1) * _cosine(step / top) if top else 1.0
    into = (step - top) / (num_steps - 1 - top)
    last = first / schedule.final_div_factor
    return last + (1 - last) * _cosine(into)


_BY_PROGRESS: dict[ScheduleKind, Callable[[ScheduleConfig, float, float], float]] = {
    "constant": lambda schedule, progress, whole: 1.0,
    "linear": lambda schedule, progress, whole: 1 - progress,
    "cosine": lambda schedule, progress, whole: _cosine(progress),
    "cosine_restarts": lambda schedule, progress, whole: _cosine(progress * schedule.cycles % 1),
    "polynomial": lambda schedule, progress, whole: (1 - progress) ** schedule.power,
    "wsd": _wsd,
    "triangular": lambda schedule, progress, whole: _triangle(schedule, progress),
    "triangular2": lambda schedule, progress, whole: _smaller_triangle(schedule, progress),
}
"""Height over the bottom at a part of the steps after the warm-up; all steps over those is the last argument."""
_BY_STEPS: dict[ScheduleKind, Callable[[ScheduleConfig, int, int], float]] = {
    "inverse_sqrt": _inverse_sqrt,
    "step": lambda schedule, since, warmup: schedule.gamma ** (since // schedule.every),
    "exponential": lambda schedule, since, warmup: float(schedule.gamma ** (since / schedule.every)),
}
"""Part of the peak at a number of steps after the warm-up; does not depend on the length of the run."""
