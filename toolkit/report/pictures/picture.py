"""A finished picture: a PNG that a notebook shows, the same everywhere, with words for those who do not see it."""

import base64
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from toolkit.errors import MachineError

INK, PALE, GRID = "#222222", "#6B7280", "#D9DCE1"
"""Text, text of less weight, lines behind the data."""
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, SKY, PURPLE = "#D55E00", "#56B4E9", "#CC79A7"
"""Okabe and Ito's palette, told apart by most colour-blind readers."""
LIMIT = "#B00020"
"""Capacities, and what is beyond them."""

_DPI = 144
_SHOWN_DPI = 100
"""A figure of 9 inches is shown 900 pixels wide, and sharp on a screen of finer ones."""
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": PALE,
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.edgecolor": "none",
    "legend.facecolor": "none",
    "legend.framealpha": 0.85,
    "text.color": INK,
    "text.parse_math": False,  # a model may be called anything, also what would be read as a formula
    "xtick.color": PALE,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": PALE,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows in words."""

    png: bytes = field(repr=False)
    """The file."""
    words: str
    """What stands in the picture, a line or a few."""
    size: tuple[int, int] = field(repr=False)
    """Width and height at which it is shown, pixels."""

    def save(self, path: Path | str) -> Path:
        """Write the PNG and give its path.

        Raises:
            MachineError: it cannot be written.
        """
        target = Path(path)
        try:
            target.write_bytes(self.png)
        except OSError as error:
            raise MachineError(f"{target}: cannot be written ({error.strerror}); name another place") from None
        return target

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """What Jupyter asks for."""
        shown = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.words}
        return shown, {"image/png": {"width": self.size[0], "height": self.size[1]}}


@contextmanager
def canvas(width: float, height: float, **subplots: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes; what is drawn in the block has the common style.

    Args:
        width: inches.
        height: inches.
        **subplots: as `Figure.subplots` takes them.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)


def finished(figure: Figure, words: str) -> Picture:
    """The figure as it is now; for the block of its `canvas`."""
    drawn = io.BytesIO()
    # Without matplotlib's own name and release in it, equal figures are equal files.
    figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    width, height = (round(inches * _SHOWN_DPI) for inches in figure.get_size_inches())
    return Picture(drawn.getvalue(), words, (width, height))
