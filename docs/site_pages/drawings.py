"""The site's drawings, for light and for dark pages: the tables of costs.py, who holds what, a pipeline's turns."""

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from site_pages.costs import COMPARISONS, fits, plans
from toolkit.planner.estimates import MEMORY_TERMS, TIME_TERMS
from toolkit.units import GiB

matplotlib.use("Agg")

# Okabe and Ito's palette, told apart by most colour-blind readers; greys for what no tensor takes.
_MEMORY = {
    "weights_bytes": "#0072B2",
    "gradients_bytes": "#56B4E9",
    "optimizer_bytes": "#009E73",
    "activations_bytes": "#E69F00",
    "logits_bytes": "#D55E00",
    "buffers_bytes": "#CC79A7",
    "fragmentation_bytes": "#AAAAAA",
    "context_bytes": "#777777",
}
_TIME = {
    "compute_seconds": "#0072B2",
    "recompute_seconds": "#56B4E9",
    "tp_seconds": "#E69F00",
    "cp_seconds": "#D55E00",
    "pp_seconds": "#CC79A7",
    "bubble_seconds": "#AAAAAA",
    "dp_seconds": "#009E73",
    "optimizer_seconds": "#F0E442",
    "offload_seconds": "#882255",
    "overhead_seconds": "#777777",
}


class Ink(NamedTuple):
    """Colours of what is written and ruled on a page; none of them fills anything else."""

    text: str
    rule: str
    empty: str
    limit: str


LIGHT = Ink("#222222", "#c8c8c8", "#ececec", "#b00020")
DARK = Ink("#dddddd", "#4a4d57", "#2e323d", "#ff6b6b")


def drawing(name: str) -> dict[str, str]:
    """The SVG of a drawing for `light` and for `dark` pages."""
    light = DRAWINGS[name]()
    inks = dict(zip(LIGHT, DARK, strict=True))
    dark = re.sub("|".join(inks), lambda found: inks[found[0]], light)
    return {"light": light, "dark": dark}


def comparison(name: str) -> str:
    """Memory and time of every layout of one comparison, as SVG."""
    judged = plans(name)
    figure = _figure(8.6, 1.55 + 0.42 * len(judged))
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, list(judged), [made.memory for made in judged.values()], _MEMORY, MEMORY_TERMS, 1 / GiB)
    _bars(right, list(judged), [made.time for made in judged.values()], _TIME, TIME_TERMS, 1.0)
    one = next(iter(judged.values()))
    limit = one.cluster.device.memory_bytes / GiB
    left.axvline(limit, color=LIGHT.limit, linewidth=1.4)
    for place, made in enumerate(judged.values()):
        total, step = made.memory.total_bytes / GiB, made.time.step_seconds
        told = f" {total:.0f}" + ("" if fits(made) else " too much")
        behind = limit if 0.75 * limit < total < limit else total  # not across the line
        left.text(behind, place, told, va="center", fontsize=8, color=LIGHT.text if fits(made) else LIGHT.limit)
        right.text(step, place, f" {step:.1f}", va="center", fontsize=8, color=LIGHT.text)
    left.set_xlim(0, 1.25 * max(limit, *(made.memory.total_bytes / GiB for made in judged.values())))
    right.set_xlim(0, 1.13 * max(made.time.step_seconds for made in judged.values()))
    left.set_xlabel("GiB per device (line: what it has)")
    right.set_xlabel("seconds per step")
    left.set_ylim(len(judged) - 0.45, -0.55)
    for axes in (left, right):
        _legend(axes)
        _plain(axes)
    return _svg(figure)


def _bars(axes: Any, rows: list[str], estimates: Sequence[Any], colours: dict[str, str], terms: dict[str, str],
          scale: float) -> None:  # fmt: skip
    """A stacked bar a row; what is nowhere above a hundredth of the longest bar has no name in the legend."""
    longest = max(sum(getattr(one, term) for term in terms) for one in estimates)
    left = [0.0] * len(rows)
    for term, words in terms.items():
        sizes = [getattr(one, term) * scale for one in estimates]
        if any(sizes):
            label = words if max(sizes) > 0.01 * longest * scale else "_"
            axes.barh(rows, sizes, left=left, height=0.68, color=colours[term], label=label)
            left = [before + size for before, size in zip(left, sizes, strict=True)]


def parts() -> str:
    """Who holds which part of the weights and computes which part of the batch, for four ranks."""
    figure = _figure(8.6, 3.5)
    kinds: dict[str, tuple[Callable[[int], tuple[float, ...]], Callable[[int], tuple[float, ...]]]] = {
        # (x, y, width, height) of the part that rank r holds; y counts from below.
        "data parallel": (lambda r: (0, 0, 1, 1), lambda r: (0, 0.75 - r / 4, 1, 0.25)),
        "ZeRO-3": (lambda r: (r / 4, 0, 0.25, 1), lambda r: (0, 0.75 - r / 4, 1, 0.25)),
        "tensor parallel": (lambda r: (r / 4, 0, 0.25, 1), lambda r: (0, 0, 1, 1)),
        "pipeline": (lambda r: (0, 0.75 - r / 4, 1, 0.25), lambda r: (0, 0, 1, 1)),
        "sequence, context": (lambda r: (0, 0, 1, 1), lambda r: (r / 4, 0, 0.25, 1)),
    }
    axes = figure.subplots(1, 1)
    for column, (words, (weights, batch)) in enumerate(kinds.items()):
        x = column * 2.75
        axes.text(x + 1.1, 5.0, words, ha="center", fontsize=9, fontweight="bold", color=LIGHT.text)
        for rank in range(4):
            y = 3.6 - rank * 1.22
            for offset, place, colour in ((0, weights(rank), "#0072B2"), (1.2, batch(rank), "#E69F00")):
                axes.add_patch(
                    Rectangle((x + offset, y), 1, 1, facecolor=LIGHT.empty, edgecolor=LIGHT.rule, linewidth=0.8)
                )
                left, low, width, height = place
                axes.add_patch(Rectangle((x + offset + left, y + low), width, height, facecolor=colour))
            if column == 0:
                axes.text(-0.25, y + 0.5, f"rank {rank}", ha="right", va="center", fontsize=8, color=LIGHT.text)
        axes.text(x + 0.5, -0.32, "weights", ha="center", fontsize=7.5, color=LIGHT.text)
        axes.text(x + 1.7, -0.32, "batch", ha="center", fontsize=7.5, color=LIGHT.text)
    told = "weights: layers from top to bottom, width from left to right"
    told += "      batch: samples from top to bottom, tokens from left to right"
    axes.text(6.5, -1.0, told, ha="center", fontsize=7.5, color=LIGHT.text)
    axes.set_xlim(-1.4, 13.4)
    axes.set_ylim(-1.2, 5.4)
    axes.axis("off")
    return _svg(figure)


def turns(*, stages: int = 4, micro_batches: int = 8) -> str:
    """One forward, one backward: which micro-batch each stage works on; a backward pass takes two forward passes."""
    figure = _figure(8.6, 2.5)
    axes = figure.subplots(1, 1)
    slots = schedule(stages, micro_batches)
    end = max(start + length for row in slots for start, length, *_ in row)
    for stage, row in enumerate(slots):
        axes.add_patch(Rectangle((0, stage + 0.06), end, 0.88, facecolor=LIGHT.empty))
        for start, length, micro, backward in row:
            colour = "#56B4E9" if backward else "#0072B2"
            axes.add_patch(Rectangle((start, stage + 0.06), length, 0.88, facecolor=colour, edgecolor=LIGHT.empty))
            axes.text(start + length / 2, stage + 0.5, str(micro + 1), ha="center", va="center", fontsize=7.5,
                      color="#10202A" if backward else "white")  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_ylim(stages, 0)
    axes.set_yticks([stage + 0.5 for stage in range(stages)], [f"stage {stage}" for stage in range(stages)])
    axes.set_xticks([])
    idle = 1 - 3 * micro_batches / end
    axes.set_xlabel(
        f"time: forward (dark) and backward (light) of {micro_batches} micro-batches; the grey {idle:.0%} is the bubble"
    )
    _plain(axes)
    axes.grid(visible=False)
    return _svg(figure)


def schedule(stages: int, micro_batches: int) -> list[list[tuple[int, int, int, bool]]]:
    """Start, length, micro-batch and whether it is a backward pass, per stage, of one forward, one backward.

    Stage s begins with stages - s forward passes, then takes turns (Narayanan et al. 2021, 2104.04473, figure 4).
    """
    orders = []
    for stage in range(stages):
        warm_up = min(stages - stage, micro_batches)
        order = [(micro, False) for micro in range(warm_up)]
        for micro in range(micro_batches):
            order.append((micro, True))
            if warm_up + micro < micro_batches:
                order.append((warm_up + micro, False))
        orders.append(order)
    done: dict[tuple[int, int, bool], int] = {}
    rows: list[list[tuple[int, int, int, bool]]] = [[] for _ in range(stages)]
    free = [0] * stages
    while any(orders):
        for stage, order in enumerate(orders):
            while order:
                micro, backward = order[0]
                before = (stage + 1, micro, True) if backward else (stage - 1, micro, False)
                is_first = stage == (stages - 1 if backward else 0)
                if not is_first and before not in done:
                    break
                start = max(free[stage], 0 if is_first else done[before])
                length = 2 if backward else 1
                rows[stage].append((start, length, micro, backward))
                free[stage] = done[stage, micro, backward] = start + length
                order.pop(0)
    return rows


DRAWINGS: dict[str, Callable[[], str]] = {
    **{f"cost-{name}": functools.partial(comparison, name) for name in COMPARISONS},
    "parts": parts,
    "turns": turns,
}
"""Name of the file -> what draws it."""


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _legend(axes: Any) -> None:
    axes.legend(
        fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, labelcolor=LIGHT.text,
        handlelength=1.0, columnspacing=1.2,
    )  # fmt: skip


def _plain(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT.rule)
    axes.tick_params(axis="both", colors=LIGHT.text, labelsize=8.5, length=0)
    axes.xaxis.label.set_color(LIGHT.text)
    axes.xaxis.label.set_size(8.5)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=LIGHT.rule, alpha=0.5, linewidth=0.6)


def _svg(figure: Figure) -> str:
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "toolkit"}):  # equal numbers give equal files
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return drawn.getvalue()
