"""Predicted against measured on the console: one run in full, several ranked by the clock."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.report.compare import Compared, Quantity, pairs_in_order
from toolkit.report.tables import new_table
from toolkit.units import human_bytes, human_seconds

NAMES = {
    "step_seconds": "step",
    "tokens_per_second_per_gpu": "tokens/s/GPU",
    "allocated_bytes": "peak allocated",
    "reserved_bytes": "peak reserved",
    "resident_growth_bytes": "growth of memory",
    "resident_bytes": "resident memory",
}


def comparison_report(runs: Sequence[Compared]) -> Group:
    """Tables for a console of 80 columns or more."""
    parts: list[RenderableType] = [_ranking(runs), Text()] if len(runs) > 1 else []
    for run in runs:
        parts += [_run(run), Text(_remarks(run), style="dim"), Text()]
    return Group(*parts[:-1])


def _run(run: Compared) -> Group:
    table = new_table("", "predicted", "nine of ten between", "measured", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    for quantity in run.quantities:
        low, high = (_told(quantity, value) for value in quantity.predicted[1:])
        table.add_row(
            NAMES[quantity.name],
            _told(quantity, quantity.predicted.predicted),
            f"{low} to {high}",
            _told(quantity, quantity.measured),
            _ratio(quantity),
        )
    return Group(Text(f"{run.run}: {run.plan.strategy.words}", style="bold"), table)


def _ratio(quantity: Quantity) -> Text:
    return Text(f"{quantity.ratio:.2f}", style="green" if quantity.inside else "bold red")


def _remarks(run: Compared) -> str:
    ranks = f"memory of rank {run.worst_rank}, the fullest of {run.num_ranks}"
    if run.num_ranks < run.plan.world_size:
        ranks = "memory of rank 0 only: the run has not ended, or was made by an earlier release"
    warm = f"after {run.warm_up} to warm up" if run.warm_up else "none left out"
    steps = f"ratio = predicted / measured; median of {run.steps} steps, {warm}"
    return f"{steps}; {run.fill:.0%} of full sequences are tokens; {ranks}"


def _ranking(runs: Sequence[Compared]) -> Table:
    agree, pairs = pairs_in_order(runs)
    headings = ("place", "planned", "step", "planned", "ratio", "memory", f"run ({agree} of {pairs} pairs in order)")
    table = new_table(*headings)
    table.columns[-1].overflow = "fold"
    for column in table.columns[:-1]:
        column.justify = "right"
    for run in runs:
        memory = f"{run.quantities[-1].ratio:.2f}" if len(run.quantities) > 2 else "-"
        step = run.step
        table.add_row(
            f"{run.measured_place}.",
            f"{run.predicted_place}.",
            human_seconds(step.measured),
            human_seconds(step.predicted.predicted),
            f"{step.ratio:.2f}",
            memory,
            f"{run.run}: {run.plan.strategy.words}",
        )
    return table


def _told(quantity: Quantity, value: float) -> str:
    match quantity.unit:
        case "bytes":
            return human_bytes(value)
        case "seconds":
            return human_seconds(value)
        case _:
            return f"{value:,.0f}"
