"""Markdown of tables and code spans, in which no value of the code can break a row."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown on one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def code(text: object) -> str:
    """A code span, also of a text that holds backticks."""
    words = str(text)
    mark = "``" if "`" in words else "`"
    space = " " if "`" in words else ""
    return f"{mark}{space}{words}{space}{mark}"


def codes(values: Iterable[object]) -> str:
    """Code spans with commas between."""
    return ", ".join(code(value) for value in values)


def page(title: str, *sections: str, wide: bool = False) -> str:
    """A page of sections with an empty line between; a wide one has no table of contents beside it."""
    front = "---\nhide: [toc]\n---\n\n" if wide else ""
    return front + "\n\n".join([f"# {title}", *(section.strip("\n") for section in sections if section)]) + "\n"


def plain(text: str) -> str:
    """Words in which nothing is meant as Markdown or HTML; code spans stay."""
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        for mark in "<*_[]":
            parts[place] = parts[place].replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return "`".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
