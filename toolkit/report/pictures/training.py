"""A run's curves while it trains, and after: loss, and the gradient's norm before and after clipping."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import LogLocator

from toolkit.report.pictures.picture import BLUE, GRID, ORANGE, PALE, VERMILION, Picture, canvas, finished
from toolkit.report.runs import Run, Step
from toolkit.units import human_seconds

_SMOOTHED_PART = 1 / 30
"""Of the run so far: a longer average would lie far above a loss that falls fast."""
_LEAST_WINDOW = 2.0
"""Steps."""
_FEW_STEPS = 60
"""So many can be told apart as dots."""


def draw_training(run: Run, num_steps: int | None = None) -> Picture:
    """The curves of all steps so far; without a step, empty axes that say so.

    Args:
        run: the run folder, whether it trains or has ended.
        num_steps: of the whole run; without it the axis ends with the last step.

    Raises:
        ConfigError: a line of its records is damaged.
    """
    steps = run.steps if run.folder.telemetry.is_file() else []
    with canvas(9.6, 3.6, ncols=2, width_ratios=[3, 2]) as (figure, axes):
        _loss(axes[0], steps, run.evaluations)
        _norm(axes[1], steps)
        for one in axes:
            one.set_xlim(0, max(num_steps or 0, len(steps), 1) * 1.02)
            one.set_xlabel("optimizer step")
            one.grid(color=GRID, linewidth=0.6)
        words = _words(steps, num_steps)
        axes[0].set_title(words)
        return finished(figure, words)


def _loss(axes: Any, steps: Sequence[Step], evaluations: Sequence[Step]) -> None:
    numbers, losses = [step["step"] for step in steps], _values(steps, "loss")
    axes.set_ylabel("loss (nats per supervised token)")
    axes.set_ylim(0, max((loss for loss in losses if loss > 0), default=1.0) * 1.08)
    if not steps:
        return
    window = len(losses) * _SMOOTHED_PART
    if window < _LEAST_WINDOW:
        axes.plot(numbers, losses, color=BLUE, linewidth=1.8, marker=".", label="loss")
    else:
        axes.plot(numbers, losses, color=BLUE, alpha=0.35, linewidth=1, label="loss")
        axes.plot(numbers, _smooth(losses, 1 - 1 / window), color=BLUE, linewidth=1.8, label="smoothed")
    held_out = [(one["step"], one["held_out_loss"]) for one in evaluations if one.get("held_out_loss") is not None]
    if held_out:
        axes.plot(
            *zip(*held_out, strict=True),
            color=VERMILION,
            linestyle=":",
            marker="o",
            markersize=5,
            label="held-out loss",
        )
    axes.legend(loc="upper right")


def _norm(axes: Any, steps: Sequence[Step]) -> None:
    numbers = [step["step"] for step in steps]
    axes.set_title("gradient norm", fontweight="normal")
    if not steps:
        return
    marker = "." if len(steps) < _FEW_STEPS else None
    axes.plot(numbers, _values(steps, "grad_norm"), color=ORANGE, alpha=0.45, marker=marker, label="before clipping")
    # A run of an earlier release tells the norm before clipping only.
    axes.plot(numbers, _values(steps, "clipped_norm"), color=ORANGE, linewidth=1.8, label="after")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    rate = axes.twinx()
    rate.spines["right"].set_visible(True)
    rate.plot(numbers, [step["lr"] for step in steps], color=PALE, linestyle="--", linewidth=1.2)
    axes.plot([], [], color=PALE, linestyle="--", linewidth=1.2, label="learning rate")
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate", color=PALE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=False)
    axes.legend(loc="best")


def _values(steps: Sequence[Step], name: str) -> list[float]:
    """One per step; NaN where the record has null, which stands for what is not finite, or lacks it."""
    return [math.nan if step.get(name) is None else float(step[name]) for step in steps]


def _smooth(values: Sequence[float], decay: float) -> list[float]:
    """Exponential moving average, corrected for its start as Adam's moments are."""
    smoothed, average, weight = [], 0.0, 0.0
    for value in values:
        if not math.isnan(value):
            average, weight = decay * average + (1 - decay) * value, decay * weight + 1 - decay
        smoothed.append(average / weight if weight else math.nan)
    return smoothed


def _words(steps: Sequence[Step], num_steps: int | None) -> str:
    if not steps:
        return "waiting for the first step"
    last, whole = steps[-1], f" of {num_steps:,}" if num_steps else ""
    seconds = human_seconds(sum(step["step_seconds"] for step in steps))
    first_loss, last_loss = _values([steps[0], last], "loss")
    return f"step {last['step']:,}{whole}: loss {first_loss:.3f} → {last_loss:.3f} in {seconds}"
