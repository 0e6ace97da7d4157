"""The two shapes of table that reports are made of, and the bars inside them."""

from rich.table import Table

BAR_WIDTH = 32
"""Cells of a whole bar."""


def new_grid() -> Table:
    """Names on the left, values on the right, no headings."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    return grid


def new_table(*headings: str) -> Table:
    """Left-aligned, without a frame; only the last column may wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True)
    table.add_column(headings[-1])
    return table


def bar(part: float, width: int = BAR_WIDTH) -> str:
    """A bar of eighths of a cell: nothing at 0, `width` cells at 1 and beyond."""
    eighths = min(width * 8, round(part * width * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")
