"""Who holds which part of which matrix."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.patches import Rectangle

from toolkit.lessons.drawings.axes import RANKS, legend_below, without_frame
from toolkit.lessons.matrix_product import Product
from toolkit.report.pictures.picture import PALE, Picture, canvas, finished

Cut = Literal["rows", "columns", "on all", "summed", "first", "layers", "last"]

# Left edge, height, width of the three matrices.
_PLACES = {"X": (0.0, 3.0, 2.0), "W": (2.9, 2.0, 2.0), "Y": (5.8, 3.0, 2.0)}
_CUTS: dict[str, tuple[str, dict[str, Cut]]] = {
    "rows of X": ("Data parallel", {"X": "rows", "W": "on all", "Y": "rows"}),
    "columns of W": ("Tensor parallel, columns", {"X": "on all", "W": "columns", "Y": "columns"}),
    "rows of W": ("Tensor parallel, rows", {"X": "columns", "W": "rows", "Y": "summed"}),
    "layers": ("Pipeline parallel, a W each", {"X": "first", "W": "layers", "Y": "last"}),
}
_ON_ALL = "#E4E4E4"


def draw_products(found: Sequence[Mapping[str, Product]]) -> Picture:
    """Who holds which part of X and W and has which part of Y, in the four ways, and what it costs."""
    with canvas(10, 2.5, ncols=len(_CUTS)) as (figure, panels):
        for axes, (name, (title, cuts)) in zip(panels, _CUTS.items(), strict=True):
            for matrix, (left, height, width) in _PLACES.items():
                _matrix(axes, (left, 1.5 - height / 2, width, height), cuts[matrix])
                axes.text(left + width / 2, 1.5 + height / 2 + 0.12, matrix, ha="center")
            for sign, at in (("\N{MULTIPLICATION SIGN}", 2.45), ("=", 5.35)):
                axes.text(at, 1.5, sign, ha="center", va="center", fontsize=13)
            held, sent = (max(getattr(one[name], kind) for one in found) for kind in ("held_numbers", "sent_bytes"))
            axes.text(0, -0.6, f"holds {held:,} numbers", fontsize=9, color=PALE)
            axes.text(0, -1.2, f"sends {sent:,} bytes", fontsize=9, color=PALE)
            axes.set_title(title)
            axes.set(xlim=(-0.1, 7.9), ylim=(-1.4, 3.7), aspect="equal", xticks=[], yticks=[])
            without_frame(axes)
        for rank, colour in enumerate(RANKS):
            panels[0].plot([], [], "s", color=colour, label=f"rank {rank}")
        panels[0].plot([], [], "s", color=_ON_ALL, label="all ranks")
        legend_below(panels[0], columns=len(RANKS) + 1)
        return finished(figure, f"Which rank holds which part of X, W and Y, cut by {', '.join(_CUTS)}.")


def _matrix(axes: Any, place: tuple[float, float, float, float], cut: Cut) -> None:
    left, bottom, width, height = place
    n = len(RANKS)
    for rank, colour in enumerate(RANKS):
        match cut:
            case "rows":
                box = (left, bottom + height * (n - 1 - rank) / n, width, height / n)
            case "columns":
                box = (left + width * rank / n, bottom, width / n, height)
            case "layers":
                box = (left + width / 2 * (rank % 2), bottom + height / 2 * (1 - rank // 2), width / 2, height / 2)
            case _:
                box = place
                colour = {"first": RANKS[0], "last": RANKS[-1]}.get(cut, _ON_ALL)
        axes.add_patch(Rectangle(box[:2], *box[2:], facecolor=colour, edgecolor="white", linewidth=1.0))
    if cut == "summed":
        axes.text(left + width / 2, 1.5, "sum of\n4", ha="center", va="center", fontsize=9)
