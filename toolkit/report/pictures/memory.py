"""Memory of several answers side by side: a bar of its terms for each, against what the device has."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from toolkit.planner.estimates import MEMORY_TERMS
from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import Plan
from toolkit.planner.what_if import Answer
from toolkit.report.pictures.picture import GRID, INK, LIMIT, PALE, Picture, canvas, finished
from toolkit.report.plan_plots import COLOURS
from toolkit.units import GiB, MiB, human_bytes, human_seconds

_WIDTH, _ROW = 9.6, 0.34
"""Inches: of the picture, of a bar with its gap."""
_BEYOND = 2.2
"""Of the largest capacity: longer bars are cut, so that they do not make all others short."""
_SMALL = 0.25
"""Of the largest capacity: shorter bars fill the axes, which the capacity is then not on."""
_COLUMNS = {"memory": 58, "step": 122, "host": 182}
"""Figures behind the bars: where each column ends, points behind the axes."""
_REFUSAL_SIGNS = 104
"""Of one line in the place of a bar."""
_NOTHING = "-"


class _Row(NamedTuple):
    """A bar, or with no answer a heading."""

    name: str
    answer: Answer | None = None


def draw_memory(answers: Mapping[str, Answer], title: str = "") -> Picture:
    """A bar for every answer, by name.

    Returns:
        The picture; its words are a line for every bar.
    """
    return draw_memory_groups({"": answers}, title)


def draw_memory_groups(groups: Mapping[str, Mapping[str, Answer]], title: str = "") -> Picture:
    """Groups of bars under a heading each.

    Args:
        groups: heading -> name -> answer.
        title: above all of them.
    """
    rows: list[_Row] = []
    for heading, answers in groups.items():
        rows += [_Row(heading)] if heading else []
        rows += [_Row(name, answer) for name, answer in answers.items()]
    plans = [row.answer.plan for row in rows if row.answer and row.answer.plan]
    with canvas(_WIDTH, 1.35 + _ROW * len(rows) + (0.2 if title else 0.0)) as (figure, axes):
        longest = _longest(plans)
        unit = GiB if longest >= GiB else MiB
        _finish_axes(axes, rows, longest / unit)
        axes.set_xlabel(f"{'GiB' if unit == GiB else 'MiB'} on the fullest device")
        for place, row in enumerate(rows):
            if row.answer is None:
                axes.text(0, place + 0.2, row.name, fontweight="bold")
            elif row.answer.plan is None:
                refusal = {"va": "center", "fontsize": 8, "color": LIMIT}
                axes.text(longest / unit * 0.01, place, _wrapped(row.answer.refusal), **refusal)
            else:
                _bar(axes, place, row.answer.plan, longest, unit)
                _figures(axes, place, row.answer)
        axes.set_title(title, pad=18 if plans else 6)
        if plans:
            _headings(axes)
            _legend(figure, plans)
        return finished(figure, "\n".join(_words(row) for row in rows))


def _longest(plans: Sequence[Plan]) -> float:
    """What the axis has to hold of bars and capacities, bytes."""
    capacity = max((plan.cluster.device.memory_bytes for plan in plans), default=GiB)
    total = max((plan.memory.total_bytes for plan in plans), default=GiB)
    return total if total < _SMALL * capacity else max(capacity, min(total, _BEYOND * capacity))


def _finish_axes(axes: Any, rows: Sequence[_Row], longest: float) -> None:
    bars = [(place, row.name) for place, row in enumerate(rows) if row.answer is not None]
    axes.set_xlim(0, longest * 1.02)
    axes.set_ylim(len(rows) - 0.45, -0.6)
    axes.set_yticks([place for place, _ in bars], [name for _, name in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.6)


def _bar(axes: Any, place: int, plan: Plan, longest: float, unit: int) -> None:
    capacity, longest = plan.cluster.device.memory_bytes / unit, longest / unit
    axes.fill_betweenx(
        [place - 0.5, place + 0.5], capacity * (1 - HEADROOM), capacity, color=LIMIT, alpha=0.13, linewidth=0
    )
    left = 0.0
    for field in MEMORY_TERMS:
        size = min(int(getattr(plan.memory, field)) / unit, longest - left)
        axes.barh(place, size, left=left, height=0.7, color=COLOURS[field])
        left += size
    axes.vlines(capacity, place - 0.5, place + 0.5, color=LIMIT, linewidth=1.5)
    if plan.memory.total_bytes / unit > longest:
        axes.text(longest * 1.005, place, "»", va="center", color=LIMIT)


def _figures(axes: Any, place: int, answer: Answer) -> None:
    for name, words in _columns(answer).items():
        at = {"textcoords": "offset points", "ha": "right", "annotation_clip": False}
        colour = INK if answer.fits or words == _NOTHING else LIMIT
        beside = axes.get_yaxis_transform()
        axes.annotate(words, (1, place), xytext=(_COLUMNS[name], 0), xycoords=beside, va="center", color=colour, **at)


def _headings(axes: Any) -> None:
    for name, end in _COLUMNS.items():
        at = {"textcoords": "offset points", "xycoords": "axes fraction", "annotation_clip": False}
        axes.annotate(name, (1, 1), xytext=(end, 1), ha="right", va="bottom", fontsize=8, color=PALE, **at)


def _columns(answer: Answer) -> dict[str, str]:
    plan = answer.plan
    assert plan is not None, "has figures"
    host = human_bytes(plan.memory.host_bytes) if plan.memory.host_bytes else _NOTHING
    step = human_seconds(plan.time.step_seconds) if answer.fits else _NOTHING
    return {"memory": human_bytes(plan.memory.total_bytes), "step": step, "host": host}


def _legend(figure: Figure, plans: Sequence[Plan]) -> None:
    used = [field for field in MEMORY_TERMS if any(getattr(plan.memory, field) for plan in plans)]
    handles: list[Any] = [Patch(color=COLOURS[field], label=MEMORY_TERMS[field]) for field in used]
    sizes = {plan.cluster.device.memory_bytes for plan in plans}
    capacity = f"capacity, {human_bytes(max(sizes))}" if len(sizes) == 1 else "capacity"
    is_far = max(plan.memory.total_bytes for plan in plans) < _SMALL * max(sizes)
    words = f"{capacity}, far to the right" if is_far else f"{capacity} ({HEADROOM:.0%} stay free)"
    handles.append(Line2D([], [], color=LIMIT, linewidth=1.5, label=words))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)


def _wrapped(refusal: str) -> str:
    """As much of the first line as two short ones take."""
    return "\n".join(textwrap.wrap(refusal.partition("\n")[0], _REFUSAL_SIGNS, max_lines=2, placeholder=" …"))


def _words(row: _Row) -> str:
    if row.answer is None:
        return row.name
    if row.answer.plan is None:
        return f"{row.name}: {row.answer.refusal.partition(chr(10))[0]}"
    figures = _columns(row.answer)
    told = f"{row.name}: {figures['memory']}"
    if not row.answer.fits:
        return f"{told}, does not fit"
    host = f", {figures['host']} of host memory" if row.answer.plan.memory.host_bytes else ""
    return f"{told}, {figures['step']} per step{host}"
