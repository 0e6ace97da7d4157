"""Runs as people read them on a console: what one reached and how fast, or several beside each other."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.report.differences import NOT_THERE, Difference, differences
from toolkit.report.happenings import Happening
from toolkit.report.results import Measured, Result, measured_run, results, state_words
from toolkit.report.runs import Run
from toolkit.report.tables import new_grid, new_table
from toolkit.report.texts import shown

_MOST_COLUMNS = 4
"""Runs that stand beside each other in the table of differences; of more, those with one value are named behind it."""
_MOST_TROUBLES = 5
_BESIDE = {
    "training loss": "loss",
    "held-out loss": "held out",
    "held-out exact match": "match",
    "seconds per step": "step",
    "tokens per second": "tokens/s",
    "MFU": "MFU",
    "restarts": "restarts",
}
"""Results that several runs are compared by, and their headings."""


def run_report(run: Run) -> Group:
    """One run, finished or not: results, speed and memory against the plan, for a console of 80 columns or more.

    Raises:
        ConfigError: a file of it was changed so that it says nothing.
    """
    return measured_report(measured_run(run))


def measured_report(found: Measured) -> Group:
    """The same of a run that has been read."""
    record, lines = found.record, results(found)
    parts: list[RenderableType] = []
    if record.state != "finished":
        parts += [Text(state_words(record), style="bold"), Text()]
    reached = [[line.name, line.before, line.value] for line in lines.reached if line.value]
    if reached:
        parts += [_numbers(("Result", "before", "after"), reached), Text()]
    told = (*lines.taken, *(line for line in lines.course if line.value != "0"))
    rest = [[line.name, line.value, line.planned] for line in told if line.value]
    unmeasured = [[line.name, "", line.planned] for line in lines.taken if line.planned and not line.value]
    parts.append(_numbers(("Speed and memory", "measured", "planned"), [*unmeasured, *rest]))
    parts += [Text(note) for note in _notes(found)]
    example = record.summary.get("example")
    if isinstance(example, dict):
        parts += [Text(), _example(example)]
    if record.summary:
        parts += [Text(), Text(f"exported: {record.run.export}")]
        # A run of an earlier release has none.
        if record.run.adapter is not None and record.run.adapter.is_dir():
            parts.append(Text(f"adapters: {record.run.adapter}"))
    return Group(*parts)


def runs_report(runs: Sequence[Measured]) -> Group:
    """Several runs: what each reached, and what they were given differently."""
    lines = [{line.name: line for line in results(run).every} for run in runs]
    shown = {name: heading for name, heading in _BESIDE.items() if any(one[name].value for one in lines)}
    table = new_table("Run", *shown.values(), "state")
    for column in table.columns[1:-1]:
        column.justify = "right"
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    best = {name: _best([one[name] for one in lines]) for name in shown}
    for run, one in zip(runs, lines, strict=True):
        cells = [Text(one[name].value, style="bold" if one[name].cost == best[name] else "") for name in shown]
        table.add_row(run.record.name, *cells, state_words(run.record))
    parts: list[RenderableType] = [table, Text()]
    found = differences([run.record for run in runs])
    names = [run.record.name for run in runs]
    alike = "Recipes, plans, configurations and libraries are the same."
    parts.append(_differing(found, names) if found else Text(alike))
    for run in runs:
        notes = _notes(run)
        parts += [Text(), Text(run.record.name, style="bold"), *map(Text, notes)] if notes else []
    return Group(*parts)


def _best(lines: Sequence[Result]) -> float | str:
    """The lowest cost; of one value there is none."""
    costs = {line.cost for line in lines if line.cost is not None}
    return min(costs) if len(costs) > 1 else "none"


def _differing(found: Sequence[Difference], names: Sequence[str]) -> Table:
    beside = len(names) <= _MOST_COLUMNS
    table = new_table("Differences", *(names if beside else ["values"]))
    for column in table.columns:
        column.no_wrap, column.overflow = False, "fold"
    for one in found:
        values = list(one.values) if beside else [_grouped(one, names)]
        table.add_row(f"{one.file}: {one.key}", *(Text(value) for value in values))
    return table


def _grouped(one: Difference, names: Sequence[str]) -> str:
    """'0.001 (a, b), 0.003 (c)'."""
    holders: dict[str, list[str]] = {}
    for value, name in zip(one.values, names, strict=True):
        holders.setdefault("not there" if value == NOT_THERE else value, []).append(name)
    return ", ".join(f"{value} ({', '.join(some)})" for value, some in holders.items())


def _notes(found: Measured) -> list[str]:
    """What is not as in every run."""
    record = found.record
    notes = [*record.notes, *_troubles(found.happenings)]
    if record.state == "stopped early":
        notes.append(shown(str(record.summary["stopped_early"])))
    if (step := record.summary.get("exported_step")) is not None:
        notes.append(f"exported: the weights of step {step}, which had the lowest held-out loss")
    return notes


def _troubles(marks: Sequence[Happening]) -> list[str]:
    bad = [f"step {mark.step:,}: {mark.words}" for mark in marks if mark.weight == "bad"]
    more = [f"and {len(bad) - _MOST_TROUBLES:,} more such events"] if len(bad) > _MOST_TROUBLES else []
    return [*bad[:_MOST_TROUBLES], *more]


def _example(example: Mapping[str, object]) -> Table:
    grid = new_grid()
    for name in ("prompt", "expected", "before", "after"):
        # An untrained model may answer with anything, at length.
        given = example.get(name)
        text = shown(given.strip()) if isinstance(given, str) else ""
        grid.add_row(name, Text(text if len(text) <= 400 else f"{text[:400]}…"))
    return grid


def _numbers(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = new_table(*headings)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == "held-out exact match" else None)
    return table
