"""What a run came to, in words: the same rows for the console, the page and several runs beside each other."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from toolkit.report.compare import MAX_WARM_UP
from toolkit.report.happenings import Happening, happenings
from toolkit.report.readings import Reading, readings
from toolkit.report.record import Record, distinct_names, finite, read_record
from toolkit.report.runs import Run
from toolkit.report.series import Column, columns
from toolkit.report.texts import shown
from toolkit.units import human_bytes, human_count, human_seconds

MEMORY_NAMES = {
    "allocated_bytes": "peak allocated",
    "reserved_bytes": "peak reserved",
    "resident_growth_bytes": "growth of memory",
}
"""Readings of memory that a run may have been compared by, beside the resident bytes of rank 0."""


class Result(NamedTuple):
    """One line of a run's results."""

    name: str
    """What it is."""
    value: str = ""
    """As people read it; empty where the run has none."""
    before: str = ""
    """The same before training, where it was measured."""
    planned: str = ""
    """What the plan expected, where it expects something."""
    inside: bool | None = None
    """Whether the measurement lies in the band that should hold nine of ten."""
    cost: float | None = None
    """What runs are ranked by in this line: the lowest is the best."""


class Results(NamedTuple):
    """Lines of a run's results; of any two runs the lines of one name mean the same."""

    reached: tuple[Result, ...]
    """Losses and answers."""
    taken: tuple[Result, ...]
    """Time and memory, beside what the plan expected."""
    course: tuple[Result, ...]
    """How it went."""

    @property
    def every(self) -> tuple[Result, ...]:
        """All of them."""
        return (*self.reached, *self.taken, *self.course)


class Measured(NamedTuple):
    """A record, and what is computed from it once for all that show it."""

    record: Record
    columns: dict[str, Column]
    """As `series.columns` gives them."""
    happenings: tuple[Happening, ...]
    """As `happenings.happenings` gives them."""
    typical: dict[str, float]
    """Medians of the columns after the warm-up, where anything was measured."""


def measured(record: Record) -> Measured:
    """What is drawn and told of a run."""
    found, warm_up = columns(record), min(MAX_WARM_UP, len(record.steps) // 3)
    values = {name: [one for one in column[warm_up:] if one is not None] for name, column in found.items()}
    typical = {name: float(statistics.median(kept)) for name, kept in values.items() if kept}
    return Measured(record, found, happenings(record), typical)


def measured_run(run: Run) -> Measured:
    """The same of a run that is open already.

    Raises:
        ConfigError: a file of it was changed so that it says nothing.
    """
    return measured(read_record(run, distinct_names([run.folder.path])[0]))


def state_words(record: Record) -> str:
    """'finished', 'not finished: 57 of 700 steps', ..."""
    match record.state:
        case "finished":
            return "finished"
        case "stopped early":
            return f"finished: {shown(str(record.summary['stopped_early']))}"
        case "not finished":
            return f"not finished: {_steps(record)} steps"
        case "not started":
            return "planned, not trained yet"


def results(found: Measured) -> Results:
    """Every line, with or without a value."""
    return Results(tuple(_reached(found)), tuple(_taken(found)), tuple(_course(found)))


def _reached(found: Measured) -> Iterator[Result]:
    losses = [value for value in found.columns.get("loss", ()) if value is not None]
    first, last = (losses[0], losses[-1]) if losses else (None, None)
    yield Result("training loss", _words(last, _loss), _words(first, _loss), cost=last)
    for key, (name, words, sign) in _MEASURED_BY.items():
        values = [one[key] for one in found.record.evaluations if one.get(key) is not None]
        before, after = (values[0], values[-1]) if values else (None, None)
        if summary := found.record.summary:
            before, after = (finite(summary.get(f"{key}_{when}")) for when in ("before", "after"))
        yield Result(name, _words(after, words), _words(before, words), cost=None if after is None else sign * after)


def _taken(found: Measured) -> Iterator[Result]:
    typical, record, plan = found.typical, found.record, readings(found.record.plan)
    compared = {one.name: one for one in (record.compared.quantities if record.compared else ())}
    seconds, rate, mfu = (typical.get(name) for name in ("step_seconds", "tokens_per_second", "mfu"))
    yield _beside("seconds per step", seconds, human_seconds, plan.step_seconds)
    # Padding is no token: what was planned for full rows is told for rows as they are.
    fill = record.compared.fill if record.compared else 1.0
    rates = (("tokens per second", rate, plan.tokens_per_second, _whole), ("MFU", mfu, plan.mfu, _percent))
    for name, value, planned, words in rates:
        cost = None if value is None else -value
        yield Result(name, _words(value, words), planned=words(fill * planned), cost=cost)
    resident = _last(found.columns.get("peak_rss_bytes", ()))
    if resident is not None or not record.steps:
        name = "peak memory of rank 0" if record.steps else "peak memory"
        yield Result(name, _words(resident, human_bytes), planned=human_bytes(plan.total.predicted), cost=resident)
    for key, name in MEMORY_NAMES.items():
        if (quantity := compared.get(key)) is not None:
            yield _beside(name, quantity.measured, human_bytes, quantity.predicted)
    ranks = record.summary.get("memory_by_rank")
    if record.plan.strategy.offload_to == "nvme" and isinstance(ranks, list):
        moved = [sum(finite(rank.get(key)) or 0.0 for rank in ranks if isinstance(rank, dict)) for key in _DISK]
        yield Result("swapped from and to disk", ", ".join(map(human_bytes, moved)))


def _beside(name: str, value: float | None, words: Callable[[float], str], planned: Reading) -> Result:
    inside = None if value is None else planned.low <= value <= planned.high
    return Result(name, _words(value, words), planned=words(planned.predicted), inside=inside, cost=value)


def _course(found: Measured) -> Iterator[Result]:
    record, lanes = found.record, [one.lane for one in found.happenings]
    restarts = sum(event.get("event") == "restarted" for event in record.events)
    went_on = sum(one.lane == "started" and one.step > 0 for one in found.happenings)
    yield Result("optimizer steps", _steps(record))
    for lane, name in (("skipped", "updates left out"), ("bad step", "bad steps"), ("checkpoint", "checkpoints")):
        yield Result(name, f"{lanes.count(lane):,}" if record.steps else "")
    yield Result("restarts", f"{restarts:,}" if record.steps else "")
    if went_on > restarts:
        yield Result("launched again", f"{went_on - restarts:,}")
    trained, seconds = (finite(record.summary.get(key)) for key in ("trainable_parameters", "wall_seconds"))
    yield Result("trained parameters", _words(trained, human_count))
    yield Result("last launch to end" if went_on else "whole run", _words(seconds, human_seconds))


def _steps(record: Record) -> str:
    done, total = int(record.steps[-1]["step"]) if record.steps else 0, record.num_steps
    return f"{done:,}" if total is None or total == done else f"{done:,} of {total:,}"


def _last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def _words(value: float | None, words: Callable[[float], str]) -> str:
    return "" if value is None else words(value)


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _percent(part: float) -> str:
    return f"{part:.1%}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_MEASURED_BY: dict[str, tuple[str, Callable[[float], str], int]] = {
    "held_out_loss": ("held-out loss", _loss, 1),
    "exact_match": ("held-out exact match", _percent, -1),
    "prompts_match": ("prompts answered right", _percent, -1),
}
_DISK = ("disk_read_bytes", "disk_written_bytes")
