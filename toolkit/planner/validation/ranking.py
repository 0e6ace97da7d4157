"""Does the planner order layouts as measurement does: Kendall's tau and regret inside one published table.

A table is one model, method, precision, sequence length and global batch on the same GPUs under the same framework,
from one source: what is left to choose is the layout. Tables count equally, however long they are.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from toolkit.planner.cost.flops import tokens_per_step
from toolkit.planner.validation.report import RankScore
from toolkit.planner.validation.score import Judged

TABLE_COLUMNS = ("source", "model", "gpu", "n_gpus", "framework", "precision", "method", "seq_len", "global_batch")
"""Columns that are equal in all rows of one table."""

Table = tuple[str, ...]
"""The cells of those columns."""

LAYOUT_FIELDS = (
    *("dp", "tp", "pp", "vpp", "sp", "cp", "zero_stage", "offload", "checkpointing", "micro_batch"),
    *("grad_accum", "fused_loss"),
)
"""Fields of a Setup that the planner chooses."""

MIN_LAYOUTS = 3
"""Fewer say little about an order."""


class Timed(NamedTuple):
    """One layout: seconds per token, so that layouts of unlike global batches compare where none is stated."""

    predicted: float
    measured: float


def rank(judged: Iterable[Judged], keep: Callable[[Table], bool] = lambda _: True) -> RankScore:
    """Rank agreement over all tables of at least three layouts that `keep` takes."""
    found = {table: layouts for table, layouts in tables(judged).items() if keep(table)}
    if not found:
        return RankScore(tables=0)
    regrets = {table: regret(layouts) for table, layouts in found.items()}
    worst = max(regrets, key=lambda table: regrets[table])
    return RankScore(
        tables=len(found),
        layouts=sum(map(len, found.values())),
        kendall_tau=statistics.fmean(map(kendall_tau, found.values())),
        median_regret=statistics.median(regrets.values()),
        mean_regret=statistics.fmean(regrets.values()),
        worst_regret=regrets[worst],
        worst_table=_named(worst),
    )


def _named(table: Table) -> str:
    cell = dict(zip(TABLE_COLUMNS, table, strict=True))
    parts = (
        cell["model"],
        cell["gpu"] and f"{cell['n_gpus']} x {cell['gpu']}",
        cell["framework"],
        cell["seq_len"] and f"{cell['seq_len']} tokens",
        cell["global_batch"] and f"global batch {cell['global_batch']}",
    )
    return ", ".join(part for part in parts if part)


def tables(judged: Iterable[Judged]) -> dict[Table, list[Timed]]:
    """The tables with at least three layouts; rows of one layout (repeats, compiler flags) become their mean."""
    layouts: dict[Table, dict[tuple[object, ...], list[Timed]]] = {}
    for one in judged:
        table = tuple(one.case.run.text(column) for column in TABLE_COLUMNS)
        layout = tuple(getattr(one.case.setup, field) for field in LAYOUT_FIELDS)
        tokens = tokens_per_step(one.case.setup)
        layouts.setdefault(table, {}).setdefault(layout, []).append(
            Timed(one.predicted / tokens, one.measured / tokens)
        )
    found = {table: rows.values() for table, rows in layouts.items() if len(rows) >= MIN_LAYOUTS}
    return {table: [_mean(repeats) for repeats in rows] for table, rows in found.items()}


def _mean(repeats: list[Timed]) -> Timed:
    return Timed(statistics.fmean(one.predicted for one in repeats), statistics.fmean(one.measured for one in repeats))


def kendall_tau(table: Sequence[Timed]) -> float:
    """Kendall's tau-b: (concordant - discordant) pairs over the geometric mean of the pairs untied in either.

    0 where one side is all ties. Kendall, The Treatment of Ties in Ranking Problems, Biometrika 33 (1945).
    """
    agreement = untied_predicted = untied_measured = 0
    for index, one in enumerate(table):
        for other in table[:index]:
            predicted = _sign(one.predicted - other.predicted)
            measured = _sign(one.measured - other.measured)
            agreement += predicted * measured
            untied_predicted += abs(predicted)
            untied_measured += abs(measured)
    pairs = float(untied_predicted) * untied_measured
    return agreement / pairs**0.5 if pairs else 0.0


def regret(table: Sequence[Timed]) -> float:
    """Measured time of the layout predicted fastest over the fastest measured, less 1; of equals the worst."""
    fastest = min(one.predicted for one in table)
    chosen = max(one.measured for one in table if one.predicted == fastest)
    return chosen / min(one.measured for one in table) - 1.0


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
