"""Bars of one length scale as SVG, with their legend; they need no script."""

from collections.abc import Callable, Sequence

from toolkit.report.bars import Bar
from toolkit.report.page.markup import Markup, element, together

_WIDTH = 1000
_HEIGHT = 22


def bar_rows(
    bars: Sequence[Bar],
    words: Callable[[float], str],
    *,
    marks: Sequence[tuple[str, float]] = (),
) -> Markup:
    """A row per bar, all on one scale, and below them what the colours are.

    Args:
        bars: from top to bottom.
        words: a length as people read it.
        marks: lines through all bars: what they are, and where. One far beyond the bars is left out.
    """
    longest = max((bar.length for bar in bars), default=0.0)
    marks = [(name, place) for name, place in marks if place <= 2.5 * longest]
    whole = max([longest, *(place for _, place in marks)]) * 1.005 or 1.0
    rows = [
        [
            element("div", bar.label, class_="bar-label"),
            _bar(bar, whole, words, marks),
            element("div", words(bar.length), class_="bar-total"),
        ]
        for bar in bars
    ]
    return together([element("div", rows, class_="bars"), _legend(bars, words, marks)])


def _bar(bar: Bar, whole: float, words: Callable[[float], str], marks: Sequence[tuple[str, float]]) -> Markup:
    drawn, left = [], 0.0
    for part in bar.parts:
        title = f"{part.name}: {words(part.value)}, {part.value / bar.length:.0%} of {bar.label}"
        place = {"x": f"{_WIDTH * left / whole:.2f}", "width": f"{_WIDTH * part.value / whole:.2f}"}
        drawn.append(element("rect", element("title", title), y=0, height=_HEIGHT, class_=f"part-{part.kind}", **place))
        left += part.value
    for name, value in marks:
        x = f"{_WIDTH * value / whole:.2f}"
        line = element(
            "line", element("title", f"{name}: {words(value)}"), x1=x, x2=x, y1=0, y2=_HEIGHT, class_="limit"
        )
        drawn.append(line)
    told = f"{bar.label}: " + ", ".join(f"{part.name} {words(part.value)}" for part in bar.parts)
    view = f"0 0 {_WIDTH} {_HEIGHT}"
    return element("svg", drawn, viewBox=view, preserveAspectRatio="none", role="img", aria_label=told, class_="bar")


def _legend(bars: Sequence[Bar], words: Callable[[float], str], marks: Sequence[tuple[str, float]]) -> Markup:
    """Every name once, with its largest value."""
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    for part in (part for bar in bars for part in bar.parts):
        kinds.setdefault(part.name, part.kind)
        values[part.name] = max(values.get(part.name, 0.0), part.value)
    items = [
        element("span", element("i", class_=f"swatch part-{kinds[name]}"), name, " ", element("b", words(value)))
        for name, value in values.items()
    ]
    items += [
        element("span", element("i", class_="swatch limit"), name, " ", element("b", words(value)))
        for name, value in marks
    ]
    return element("div", items, class_="legend")
