"""Runs that have trained: what their plans predicted, between what nine of ten should lie, and what was measured."""

from collections.abc import Sequence
from typing import Any

from toolkit.report.compare import Compared, Quantity
from toolkit.report.pictures.picture import BLUE, GREEN, GRID, LIMIT, SKY, Picture, canvas, finished
from toolkit.units import GiB, MiB, human_bytes, human_seconds

_ROW = 0.62
"""Inches of a run."""
_TITLES = {"seconds": "Seconds per step", "bytes": "Memory of the fullest rank"}
_SCALES = {
    "seconds": ((1.0, "seconds"), (1e-3, "milliseconds")),
    "bytes": ((float(GiB), "GiB"), (float(MiB), "MiB")),
}


def draw_comparison(runs: Sequence[Compared]) -> Picture:
    """A line for every run: its step time, and the last kind of memory that its ranks recorded.

    Args:
        runs: of `toolkit.report.compare.compare_runs`.

    Returns:
        The picture; its words are a line for every run.
    """
    with canvas(9.6, 1.4 + _ROW * len(runs), ncols=2, sharey=True) as (figure, panels):
        for axes, unit in zip(panels, _TITLES, strict=True):
            _panel(axes, [_quantity(one, unit) for one in runs], unit)
        names = [f"{one.run.name}\n{one.plan.strategy.words}" for one in runs]
        panels[0].set_yticks(range(len(runs)), names)
        panels[0].set_ylim(len(runs) - 0.4, -0.6)
        entries = (entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True))
        unique = {label: handle for handle, label in entries}
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4)
        return finished(figure, "\n".join(_words(one) for one in runs))


def _quantity(run: Compared, unit: str) -> Quantity | None:
    """The last one of that unit; None where the run recorded none."""
    return next((one for one in reversed(run.quantities) if one.unit == unit), None)


def _panel(axes: Any, quantities: Sequence[Quantity | None], unit: str) -> None:
    largest = max((max(one.predicted.high, one.measured) for one in quantities if one), default=1.0)
    scale, name = next((pair for pair in _SCALES[unit] if largest >= pair[0]), _SCALES[unit][-1])
    for place, one in enumerate(quantities):
        if one is None:
            continue
        low, high, predicted = (value / scale for value in (one.predicted.low, one.predicted.high, one.predicted[0]))
        axes.barh(place, high - low, left=low, height=0.46, color=SKY, alpha=0.45, label="nine of ten runs")
        axes.vlines(predicted, place - 0.23, place + 0.23, color=BLUE, linewidth=2.4, label="predicted")
        colour, words = (GREEN, "measured, inside") if one.inside else (LIMIT, "measured, outside")
        axes.scatter(one.measured / scale, place, s=64, color=colour, edgecolor="white", zorder=3, label=words)
        beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
        told = f"{one.ratio:.2f}"
        axes.annotate(told, (1, place), xytext=(8, 0), va="center", color=colour, fontweight="bold", **beside)
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "annotation_clip": False}
    axes.annotate("ratio", (1, 1), xytext=(8, 2), **above)
    axes.set_xlim(0, largest / scale * 1.06)
    axes.set_xlabel(name)
    axes.set_title(_TITLES[unit])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.6)


def _words(run: Compared) -> str:
    told = [f"{human_seconds(run.step.measured)} per step, predicted {human_seconds(run.step.predicted.predicted)}"]
    if memory := _quantity(run, "bytes"):
        told.append(f"{human_bytes(memory.measured)}, predicted {human_bytes(memory.predicted.predicted)}")
    return f"{run.run.name}: {'; '.join(told)}"
