"""Parameter servers: who waits for whom, what old gradients do, and fewer, longer rounds."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.lessons.drawings.axes import EMPTY, grid, logarithmic
from toolkit.lessons.federated import Averaged
from toolkit.lessons.staleness import Race, Stability
from toolkit.report.pictures.picture import BLUE, GREEN, ORANGE, PALE, PURPLE, VERMILION, Picture, canvas, finished

_KINDS = {"synchronous": BLUE, "asynchronous": ORANGE}
_SHOWN_SECONDS = 0.2
"""Of the two timelines; the rest is the same again."""
_LINES = (BLUE, GREEN, ORANGE, VERMILION, PURPLE, PALE)


def draw_races(runs: Mapping[str, Sequence[Race]]) -> Picture:
    """When each worker computed, and how near the server came in the same time."""
    with canvas(10, 3.2, ncols=3, width_ratios=(1.0, 1.0, 1.1)) as (figure, panels):
        for axes, (kind, ranks) in zip(panels[:2], runs.items(), strict=True):
            _workers(axes, ranks, _KINDS[kind])
            mean = sum(ranks[0].staleness) / len(ranks[0].staleness)
            axes.set_title(f"{kind.capitalize()}: a gradient is\n{mean:.1f} updates old in the mean")
            server = ranks[0]
            passed = [1000 * (second - server.seconds[0]) for second in server.seconds]
            label = f"{kind}, {len(server.staleness)} updates"
            panels[2].plot(passed, server.distances, color=_KINDS[kind], label=label)
        last = panels[2]
        last.set(yscale="log", xlabel="milliseconds")
        logarithmic(last.yaxis)
        last.set_title("Distance from the optimum")
        grid(last)
        last.legend(loc="lower left")
        told = [f"{kind}: {len(ranks[0].staleness)} updates in {_span(ranks[0]):.2f} s" for kind, ranks in runs.items()]
        return finished(figure, f"When workers computed, and how near the server came. {'; '.join(told)}.")


def _span(server: Race) -> float:
    return server.seconds[-1] - server.seconds[0]


def _workers(axes: Any, ranks: Sequence[Race], colour: str) -> None:
    begin = max(one.busy[0][1] for one in ranks if one.busy)  # once all are under way
    for rank, one in enumerate(ranks):
        axes.axhspan(rank - 0.4, rank + 0.4, color=EMPTY, zorder=0)
        for start, end in one.busy:
            axes.barh(rank, 1000 * (end - start), 0.8, 1000 * (start - begin), color=colour, edgecolor="white")
    updates = [1000 * (second - begin) for second in ranks[0].seconds[1:]]
    axes.plot(updates, [0] * len(updates), "|", color="black", markersize=15)
    names = ["server", *(f"worker {rank}" for rank in range(1, len(ranks)))]
    axes.set_yticks(range(len(ranks)), names)
    axes.set(xlim=(0, 1000 * _SHOWN_SECONDS), ylim=(len(ranks) - 0.45, -0.55), xlabel="milliseconds")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def draw_staleness(found: Sequence[Stability], *, rate: float) -> Picture:
    """Convergence at one rate, and where it ends: every rate with every delay, and the border by the formula."""
    with canvas(10, 3.7, ncols=2, width_ratios=(1.0, 1.15)) as (figure, (left, right)):
        for one, colour in zip(found, _LINES, strict=True):
            nearest = min(range(len(one.rates)), key=lambda place: abs(one.rates[place] - rate))
            left.plot(one.distances[nearest], color=colour, label=f"{one.delay} updates old")
        left.set(yscale="log", xlabel="update", ylim=(1e-9, 1e2))
        left.yaxis.set_major_formatter("{x:g}")
        left.set_title(f"Distance at rate x curvature = {rate:g}")
        grid(left)
        left.legend(loc="lower left", ncols=2)
        rates = found[0].rates
        grown = [[_power(one.distances[place][-1]) for one in found] for place in range(len(rates))]
        edges = _edges([math.log(one) for one in rates])
        columns = [place - 0.5 for place in range(len(found) + 1)]
        image = right.pcolormesh(
            columns, [math.exp(edge) for edge in edges], grown, cmap="RdBu_r", vmin=-4, vmax=4, rasterized=True
        )
        for place, one in enumerate(found):
            ends = ([place - 0.5, place + 0.5], [one.border, one.border])
            right.plot(*ends, color="black", linewidth=2)
        right.set(yscale="log", xlabel="updates that a gradient is old", ylabel="rate x curvature")
        right.set_xticks(range(len(found)), [str(one.delay) for one in found])
        logarithmic(right.yaxis)
        right.set_title("Blue: nearer; red: away; black: the formula")
        bar = right.figure.colorbar(image, ax=right, extend="both", ticks=[-4, -2, 0, 2, 4])
        bar.set_ticklabels(["1e-4", "0.01", "1", "100", "1e4"])
        bar.set_label("distance after all updates")
        told = [f"{one.delay} updates old: {one.border:.3f}" for one in found]
        return finished(figure, f"Where old gradients converge. Largest rate x curvature, {'; '.join(told)}.")


def _power(distance: float) -> float:
    # What has grown beyond all numbers is no number in the end.
    return math.log10(max(distance, 1e-12)) if distance < 1e12 else 12.0


def _edges(centres: list[float]) -> list[float]:
    middles = [(one + other) / 2 for one, other in itertools.pairwise(centres)]
    return [2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]]


def draw_federated(runs: Mapping[str, Mapping[int, Sequence[Averaged]]]) -> Picture:
    """Distance from the optimum by round, for local steps and kinds of rows."""
    with canvas(10, 3.3, ncols=len(runs), squeeze=False) as (figure, [panels]):
        for axes, (title, by_steps) in zip(panels, runs.items(), strict=True):
            for (num_steps, ranks), colour in zip(by_steps.items(), _LINES, strict=False):
                name = "1 step: synchronous SGD" if num_steps == 1 else f"{num_steps} steps"
                axes.plot(ranks[0].distances, color=colour, label=name)
            axes.set(yscale="log", xlabel=f"rounds, each {ranks[1].sent_bytes} bytes from a worker", ylim=(2e-4, 1.3))
            logarithmic(axes.yaxis)
            axes.set_title(title)
            grid(axes)
        panels[0].set_ylabel("distance from the optimum")
        panels[0].legend()
        return finished(figure, f"Distance from the optimum by round. {'; '.join(runs)}.")
