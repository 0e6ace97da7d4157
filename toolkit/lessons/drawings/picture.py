"""Sheets to draw on, all in one style, and the pictures that they become."""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

from toolkit.errors import INSTALL_TRAINING, MachineError

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
except ImportError as error:  # lessons themselves need torch only
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

P = ParamSpec("P")

# Okabe and Ito's palette, told apart by most colour-blind readers.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#777777"
PALE = "#F3F3F3"
RANKS = (BLUE, ORANGE, GREEN, PURPLE)
"""Colour of each rank."""

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Picture:
    """A PNG, which a notebook shows."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Picture of {len(self.png):,} bytes"


class Sheet:
    """A figure of several panels.

    Args:
        width: inches.
        height: inches.
        panels: width of each, from left to right, as parts of the whole.
        rows: of such panels.
    """

    def __init__(self, width: float, height: float, panels: tuple[float, ...] = (1.0,), *, rows: int = 1) -> None:
        self._figure = Figure(figsize=(width, height), layout="constrained")
        axes = self._figure.subplots(rows, len(panels), width_ratios=panels, squeeze=False)
        self.panels: list[Any] = list(axes.flat)

    def legend_below(self, axes: Any, *, columns: int) -> None:
        """What these axes name, for all panels."""
        handles, labels = axes.get_legend_handles_labels()
        self._figure.legend(handles, labels, loc="outside lower center", ncols=columns)

    def finish(self, title: str = "") -> Picture:
        """As PNG."""
        if title:
            self._figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        drawn = io.BytesIO()
        self._figure.savefig(drawn, format="png", dpi=100)
        return Picture(drawn.getvalue())


def styled(draw: Callable[P, Picture]) -> Callable[P, Picture]:
    """In the style of all; what else the reader draws keeps its own."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Picture:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def plain(axes: Any) -> None:
    """Without a frame, for drawings that are no curves."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def logarithmic(axis: Any, *, subs: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Powers of ten and so many between them, written out; the scale is set before."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=()))
