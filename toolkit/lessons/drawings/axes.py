"""What the drawings of lessons share, on the sheets of all notebooks."""

from typing import Any

from matplotlib.ticker import LogLocator

from toolkit.report.pictures.picture import BLUE, GREEN, ORANGE, PURPLE

RANKS = (BLUE, ORANGE, GREEN, PURPLE)
"""Colour of each rank."""
EMPTY = "#F3F3F3"
"""Behind timelines: where nobody does anything."""


def without_frame(axes: Any) -> None:
    """For drawings that are no curves."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def grid(axes: Any, *, axis: str = "both") -> None:
    """Lines behind the data."""
    axes.grid(axis=axis, alpha=0.25)


def logarithmic(axis: Any) -> None:
    """1, 2, 5, 10, ..., written out; the scale is set before."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=()))


def legend_below(axes: Any, *, columns: int) -> None:
    """What these axes name, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns)
