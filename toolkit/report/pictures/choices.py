"""What a plan had to choose from: step time against memory, the Pareto front of each engine, and the choice."""

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import Candidate, Plan
from toolkit.report.pictures.picture import GRID, INK, LIMIT, Picture, canvas, finished
from toolkit.report.plan_plots import ENGINE_COLOURS
from toolkit.report.readings import readings
from toolkit.units import GiB, human_bytes, human_seconds

_NAMES = {"zero": "DeepSpeed ZeRO", "pipeline": "DeepSpeed's pipeline", "mcore": "Megatron-core"}
_MOST_NUMBERED = 7
_WIDE = 2.0
"""Slowest over fastest strategy from which their axis is logarithmic."""
_TICKS = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 3, 5, 7)]


def draw_choices(plan: Plan) -> Picture:
    """Every strategy that nothing of its engine beats in both step time and memory, and the one that was chosen.

    Returns:
        The picture; its words are the numbered strategies, fastest first.
    """
    own = plan.strategy.engine
    chosen = Candidate(strategy=plan.strategy, memory=plan.memory, time=plan.time)
    numbered = _thinned([one for one in plan.pareto if one.strategy.engine == own], chosen)
    with canvas(9.6, 4.9) as (figure, axes):
        _finish_axes(axes, [chosen, *plan.pareto], plan)
        lines = {engine: _front(axes, plan, engine) for engine in ENGINE_COLOURS}
        numbers = [_number(axes, number, one, is_chosen=one is chosen) for number, one in enumerate(numbered, start=1)]
        handles = [*lines.pop(own), *numbers, *itertools.chain(*lines.values())]
        place = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.87)}
        axes.legend(handles=handles, labelspacing=0.35, facecolor="white", **place)
        axes.set_title("What fits: step time against memory, the best of each engine")
        return finished(figure, "\n".join(_words(one, is_chosen=one is chosen) for one in numbered))


def _point(candidate: Candidate) -> tuple[float, float]:
    return candidate.time.step_seconds, candidate.memory.total_bytes / GiB


def _thinned(front: Sequence[Candidate], chosen: Candidate) -> list[Candidate]:
    """The chosen one and evenly spaced others along the curve, fastest first."""
    gaps = min(len(front), _MOST_NUMBERED) - 1
    kept = {round(place * (len(front) - 1) / gaps) for place in range(gaps + 1)} if gaps > 0 else set(range(len(front)))
    rest = [one for place, one in enumerate(front) if place in kept and one.strategy != chosen.strategy]
    return sorted([chosen, *rest], key=lambda one: one.time.step_seconds)


def _front(axes: Any, plan: Plan, engine: str) -> list[Any]:
    """A line with a dot for each strategy; its entry in the legend, none where the engine has no strategy."""
    front = sorted(_point(one) for one in plan.pareto if one.strategy.engine == engine)
    if not front:
        return []
    size, width, alpha = (5.0, 1.6, 1.0) if engine == plan.strategy.engine else (3.5, 0.9, 0.6)
    style = {"linewidth": width, "marker": "o", "markersize": size, "alpha": alpha}
    lines: list[Any] = axes.plot(*zip(*front, strict=True), color=ENGINE_COLOURS[engine], label=_NAMES[engine], **style)
    return lines


def _number(axes: Any, number: int, candidate: Candidate, *, is_chosen: bool) -> Line2D:
    """A numbered mark on the point; its entry in the legend."""
    colour = ENGINE_COLOURS[candidate.strategy.engine]
    marker, size = ("*", 430) if is_chosen else ("o", 130)
    axes.scatter(*_point(candidate), s=size, marker=marker, color=colour, edgecolor=INK, linewidth=0.8, zorder=4)
    inside = {"ha": "center", "va": "center", "color": "white", "fontsize": 7.5, "fontweight": "bold"}
    axes.annotate(str(number), _point(candidate), xytext=(0, -0.5), textcoords="offset points", zorder=5, **inside)
    words = candidate.strategy.words + (" (chosen)" if is_chosen else "")
    return Line2D([], [], linestyle="none", label=f"{number}  {words}")


def _finish_axes(axes: Any, shown: Sequence[Candidate], plan: Plan) -> None:
    found = readings(plan)
    capacity = found.capacity_bytes / GiB
    axes.axhspan(found.usable_bytes / GiB, 2 * capacity, color=LIMIT, alpha=0.10, linewidth=0)
    axes.axhline(capacity, color=LIMIT, linewidth=1.5)
    words = f"capacity of {plan.cluster.device.name}, {human_bytes(found.capacity_bytes)}; {HEADROOM:.0%} stay free"
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    axes.annotate(words, (0.995, capacity), xytext=(0, 4), color=LIMIT, fontsize=8.5, **at)
    fastest, slowest = (pick(one.time.step_seconds for one in shown) for pick in (min, max))
    low, high = fastest / 1.15, slowest * 1.15
    axes.set_xlim(low, high)
    if slowest > _WIDE * fastest:
        axes.set_xscale("log")
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_ylim(0, capacity * 1.12)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_xlabel("seconds per optimizer step")
    axes.set_ylabel("GiB on the fullest device")


def _words(candidate: Candidate, *, is_chosen: bool) -> str:
    size, step = human_bytes(candidate.memory.total_bytes), human_seconds(candidate.time.step_seconds)
    return f"{candidate.strategy.words}: {size}, {step} per step{' (chosen)' if is_chosen else ''}"
