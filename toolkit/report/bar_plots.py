"""Memory of a run by rank, and the parts of its step, as PNG pictures: predicted beside measured."""

from collections.abc import Callable, Sequence
from typing import Any

from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.report.bars import Bar, memory_bars, memory_limit, time_bars
from toolkit.report.results import Measured
from toolkit.units import GiB, human_bytes, human_seconds

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:  # the desk half is installed without it
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

# Okabe and Ito's palette, told apart by most colour-blind readers; greys for what no tensor takes.
PART_COLOURS = {
    "weights": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer": "#009E73",
    "activations": "#E69F00",
    "logits": "#D55E00",
    "exchange": "#CC79A7",
    "idle": "#BBBBBB",
    "context": "#777777",
    "measured": "#6B5BD2",
}
PLANNED = "#6B5BD2"
"""Lines of what was predicted."""
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A8539A", "#B58900", "#3B8FC4", "#7A5230", "#555555")
"""Of several runs, in their order."""


def memory_picture(found: Measured) -> Any:
    """A figure: terms of the plan, below them every rank."""
    capacity, usable = memory_limit(found)
    bars = memory_bars(found)
    figure, axes = _bars(bars, GiB, human_bytes)
    longest = max(bar.length for bar in bars)
    for place, name, style in ((capacity, "capacity", "-"), (usable, "what a plan may use", "--")):
        if place <= 2.5 * longest:
            axes.axvline(place / GiB, color="#B00020", linestyle=style, linewidth=1.2, label=name)
    axes.set_xlabel("GiB per device, at the fullest instant of the step")
    return _below(figure, axes)


def step_time_picture(found: Measured) -> Any:
    """A figure: causes that the plan names, below them what telemetry tells apart."""
    figure, axes = _bars(time_bars(found), 1.0, human_seconds)
    axes.set_xlabel("seconds per step; measured: medians of rank 0")
    return _below(figure, axes)


def _bars(bars: Sequence[Bar], unit: float, words: Callable[[float], str]) -> tuple[Any, Any]:
    figure = Figure(figsize=(9, 1.9 + 0.34 * len(bars)), layout="constrained")
    axes: Axes = figure.subplots()
    named: set[str] = set()
    for place, bar in enumerate(bars):
        left = 0.0
        for part in bar.parts:
            label, colour = part.name if part.name not in named else None, PART_COLOURS[part.kind]
            axes.barh(place, part.value / unit, left=left / unit, height=0.7, color=colour, label=label)
            named.add(part.name)
            left += part.value
        axes.annotate(f" {words(bar.length)}", (left / unit, place), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.margins(x=0.14)
    return figure, axes


def _below(figure: Any, axes: Any) -> Any:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_fullest_ranks(axes: Any, runs: Sequence[Measured]) -> None:
    """The fullest rank of every run, beside what its plan said."""
    for place, run in enumerate(runs):
        bars = memory_bars(run)
        planned = max(bar.length for bar in bars if not bar.measured)
        fullest = max((bar.length for bar in bars if bar.measured), default=0.0)
        axes.barh(place, fullest / GiB, height=0.6, color=RUN_COLOURS[place % len(RUN_COLOURS)])
        axes.plot([planned / GiB] * 2, [place - 0.4, place + 0.4], color=PLANNED, linewidth=2)
    axes.set_yticks([])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_xlabel("GiB of the fullest rank; line: planned")
