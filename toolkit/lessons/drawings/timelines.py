"""Who did what when: stages of a pipeline, workers of a parameter server."""

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.lessons.drawings.axes import EMPTY, grid
from toolkit.lessons.pipeline import Pipelined
from toolkit.lessons.schedules import idle_part, predicted_bubble
from toolkit.report.pictures.picture import BLUE, ORANGE, PALE, SKY, Picture, canvas, finished

_COLOURS = {"forward": SKY, "backward": ORANGE}


def draw_pipelines(runs: Mapping[str, Sequence[Pipelined]]) -> Picture:
    """One row of boxes per stage: forward and backward passes, numbered by micro-batch."""
    with canvas(10, 1.7 * len(runs) + 0.3, nrows=len(runs), squeeze=False) as (figure, rows):
        panels, told = rows[:, 0], []
        longest = max(span.end - _begin(stages) for stages in runs.values() for one in stages for span in one.spans)
        for axes, (name, stages) in zip(panels, runs.items(), strict=True):
            _stages(axes, stages)
            axes.set(xlim=(0, 1000 * longest), ylim=(len(stages) - 0.45, -0.55))
            axes.set_yticks(range(len(stages)), [f"rank {rank}" for rank in range(len(stages))])
            num_micro = sum(span.direction == "forward" for span in stages[0].spans)
            idle, bubble = idle_part([one.spans for one in stages]), predicted_bubble(len(stages), num_micro)
            keeps = ", ".join(str(one.most_kept) for one in stages)
            told.append(f"{name}: idle {idle:.0%}, formula {bubble:.0%}")
            axes.set_title(f"{told[-1]}; micro-batches kept at once, by rank: {keeps}")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        for direction, colour in _COLOURS.items():
            panels[0].barh(0, 0, color=colour, label=direction)
        panels[0].legend(loc="center right")
        panels[-1].set_xlabel("milliseconds")
        return finished(figure, f"When each rank of a pipeline worked on which micro-batch. {'; '.join(told)}.")


def _begin(stages: Sequence[Pipelined]) -> float:
    return min(span.begin for one in stages for span in one.spans)


def _stages(axes: Any, stages: Sequence[Pipelined]) -> None:
    begin = _begin(stages)
    for rank, one in enumerate(stages):
        axes.axhspan(rank - 0.4, rank + 0.4, color=EMPTY, zorder=0)
        for span in one.spans:
            left, width = 1000 * (span.begin - begin), 1000 * (span.end - span.begin)
            axes.barh(rank, width, 0.8, left, color=_COLOURS[span.direction], edgecolor="white", linewidth=0.8)
            axes.text(left + width / 2, rank, str(span.micro), ha="center", va="center", fontsize=7.5)


def draw_bubbles(runs: Mapping[int, Sequence[Pipelined]]) -> Picture:
    """The idle part against the number of micro-batches, measured and by the formula."""
    with canvas(6.5, 3.0) as (figure, axes):
        num_stages = len(next(iter(runs.values())))
        numbers = range(1, max(runs) + 1)
        formula = [predicted_bubble(num_stages, m) for m in numbers]
        axes.plot(numbers, formula, color=PALE, label="formula: (p - 1) / (m + p - 1)")
        measured = [idle_part([one.spans for one in stages]) for stages in runs.values()]
        axes.plot(list(runs), measured, "o", color=BLUE, label="measured")
        axes.set(xscale="log", xlabel="micro-batches m", ylim=(0, 1), xticks=list(runs))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
        axes.set_title(f"Part of the time that {num_stages} ranks are idle")
        grid(axes)
        axes.legend()
        told = [f"{number}: {idle:.0%}" for number, idle in zip(runs, measured, strict=True)]
        return finished(figure, f"Idle part of {num_stages} ranks by micro-batches, measured. {'; '.join(told)}.")
