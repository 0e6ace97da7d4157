"""The planner on runs that others have measured and published: every one as a dot."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolkit.planner.validation.api import JudgedRuns
from toolkit.planner.validation.score import Judged, score
from toolkit.report.pictures.picture import (
    BLUE,
    GREEN,
    GRID,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    Picture,
    canvas,
    finished,
)
from toolkit.units import GiB

_COLOURS = (SKY, VERMILION, GREEN, ORANGE, BLUE, PURPLE)
_NAMES = {"hf": "Hugging Face", "fsdp": "PyTorch FSDP", "megatron": "Megatron-DeepSpeed"}
_NEAR = 0.25
"""The band around equality."""


def draw_published(judged: JudgedRuns) -> Picture:
    """Peak memory and step time, predicted against measured, on logarithmic axes.

    Args:
        judged: of `toolkit.planner.validation.api.judge_runs`.

    Returns:
        The picture; its words are the errors.
    """
    counts = Counter(_family(one) for one in (*judged.memory, *judged.time))
    colours = {family: _COLOURS[place % len(_COLOURS)] for place, (family, _) in enumerate(counts.most_common())}
    with canvas(9.6, 5.2, ncols=2) as (figure, panels):
        words = [
            _panel(panels[0], "Peak memory per GPU, GiB", judged.memory, colours=colours, unit=GiB),
            _panel(panels[1], "Seconds per step", judged.time, colours=colours, unit=1.0),
        ]
        entries = (entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True))
        unique = {label: handle for handle, label in entries}
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=7)
        return finished(figure, "\n".join(words))


def _family(judged: Judged) -> str:
    name = judged.case.setup.profile.name.partition("-")[0]
    return _NAMES.get(name, name)


def _panel(axes: Any, title: str, judged: Sequence[Judged], *, colours: dict[str, str], unit: float) -> str:
    values = [value / unit for one in judged for value in (one.measured, one.predicted)]
    ends = [min(values) / 1.3, max(values) * 1.3]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(ends, ends, color=PALE, linewidth=1)
    low, high = ([end * factor for end in ends] for factor in (1 / (1 + _NEAR), 1 + _NEAR))
    axes.fill_between(ends, low, high, color=PALE, alpha=0.15, linewidth=0, label="within 25 %")
    for family, colour in colours.items():
        points = [(one.measured / unit, one.predicted / unit) for one in judged if _family(one) == family]
        if points:
            style = {"s": 16, "alpha": 0.7, "edgecolor": "white", "linewidth": 0.3}
            axes.scatter(*zip(*points, strict=True), color=colour, label=family, **style)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_xlabel("measured")
    axes.set_ylabel("predicted")
    found = score(one.error for one in judged)
    assert found.mape is not None, "there are rows"
    axes.set_title(f"{title}: {found.rows} runs, mean error {found.mape:.1%}")
    return f"{title}: {found.rows} published runs, mean error {found.mape:.1%}"
