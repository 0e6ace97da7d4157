"""HTML that cannot be written wrongly: what is not markup already is text, and texts are escaped."""

import html
import json
from collections.abc import Iterable
from typing import Any

from toolkit.report.texts import shown

_VOID = {"br", "col", "input", "link", "meta"}


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
"""What may stand in an element: markup as it is, any other text escaped, nothing for None, or several of these."""


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`element("a", "next", href="#x", class_="big")`: of attributes `_` is `-`, a last one is dropped.

    Args:
        tag: name of the element.
        children: inside it, in order.
        attributes: None and False leave one out, True gives one without a value.
    """
    told = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(shown(str(value)))}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{tag}{told}>" if tag in _VOID else f"<{tag}{told}>{together(children)}</{tag}>")


def together(children: Child) -> Markup:
    """Several pieces as one; texts among them are escaped."""
    match children:
        case None:
            return Markup()
        case Markup():
            return children
        case str() | int():
            return Markup(html.escape(shown(str(children)), quote=False))
        case _:
            return Markup("".join(together(child) for child in children))


def raw(tag: str, content: str, **attributes: str) -> Markup:
    """A script or style sheet of our own, in which nothing is escaped."""
    told = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{told}>{content}</{tag}>")


def data(content: Any, *, id_: str) -> Markup:
    """JSON for a script to read; no text in it can end the element or begin another."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return raw("script", text, type="application/json", id=id_)


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], *, class_: str | None = None) -> Markup:
    """Rows below headings; the first cell of a row is its heading."""
    body = []
    for row in rows:
        first, *rest = row
        cells = [cell if _is_cell(cell) else element("td", cell) for cell in rest]
        body.append(element("tr", element("th", first, scope="row"), cells))
    headings = element("tr", [element("th", one, scope="col") for one in head])
    inner = element("table", element("thead", headings), element("tbody", body), class_=class_)
    return element("div", inner, class_="wide")


def _is_cell(cell: Child) -> bool:
    return isinstance(cell, Markup) and cell.startswith("<td")
