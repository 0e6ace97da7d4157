"""The two shapes of table that reports are made of."""

from rich.table import Table


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
