"""A run's numbers as columns over its steps, and few enough of them to draw."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from toolkit.report.readings import readings
from toolkit.report.record import Record
from toolkit.report.runs import Step

Column = list[float | None]

PHASES = {
    "data_seconds": "waiting for data",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "passes_seconds": "forward and backward",
    "pipeline_seconds": "passes and update",
    "exchange_seconds": "exchange",
    "optimizer_seconds": "optimizer",
    "waiting_seconds": "waiting for ranks",
}
"""Parts of a step that telemetry tells, and their names; docs/how-it-works.md says what each is."""
OTHER = "other_seconds"
"""What no part holds."""
MEMORY = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_bytes")
"""Readings of rank 0's memory that telemetry has."""
_MEASURED = (
    *("loss", "grad_norm", "clipped_norm", "lr", "tokens_per_second", "step_seconds"),
    *("loss_scale", "relative_change", "sent_bytes", *PHASES, *MEMORY),
)


class Thinned(NamedTuple):
    """A column of which every so many values are one: nothing that stands out is lost."""

    mean: Column
    """Of the values of each stretch; None where it has none."""
    low: Column
    """The smallest of them."""
    high: Column
    """The largest."""


def columns(record: Record) -> dict[str, Column]:
    """What was measured, by name, one value per step; a column without any value is left out.

    Beside telemetry's own: `step`, `time` (seconds of training so far), `seen` (tokens so far), `mfu` (a fraction, of
    the real tokens) and `other_seconds`.
    """
    steps = record.steps
    found = {name: [step.get(name) for step in steps] for name in _MEASURED}
    found["mfu"] = _mfu(record)
    if any(step.get(name) is not None for step in steps for name in PHASES):
        found[OTHER] = [_other(step) for step in steps]
    kept = {name: column for name, column in found.items() if any(value is not None for value in column)}
    for name, source in (("time", "step_seconds"), ("seen", "tokens")):
        kept[name] = list(accumulate(max(step.get(source) or 0.0, 0.0) for step in steps))
    return kept | {"step": [step["step"] for step in steps]}


def thinned(column: Sequence[float | None], most: int) -> Thinned:
    """At most so many values; each speaks for a stretch of equal length, but the last."""
    each = stretch(len(column), most)
    means, lows, highs = Thinned([], [], [])
    for start in range(0, len(column), each):
        values = [value for value in column[start : start + each] if value is not None]
        means.append(sum(values) / len(values) if values else None)
        lows.append(min(values, default=None))
        highs.append(max(values, default=None))
    return Thinned(means, lows, highs)


def last_of_each(column: Sequence[float | None], most: int) -> Column:
    """At most so many values of a column that only grows: the last one of every stretch."""
    each = stretch(len(column), most)
    return [column[min(start + each, len(column)) - 1] for start in range(0, len(column), each)]


def stretch(length: int, most: int) -> int:
    """Values that become one."""
    return max(-(-length // most), 1)


def ideal_seconds(record: Record) -> float:
    """Of a full step if every device ran at its peak: over the measured seconds it is the MFU."""
    return readings(record.plan).mfu * record.plan.time.step_seconds


def _mfu(record: Record) -> Column:
    """Padding is no work done: a step counts for the part of a full one that its tokens are."""
    whole, full = ideal_seconds(record), record.plan.tokens_per_step
    found: Column = []
    for step in record.steps:
        seconds, tokens = step.get("step_seconds"), step.get("tokens")
        found.append(whole * tokens / full / seconds if seconds and tokens is not None and seconds > 0 else None)
    return found


def _other(step: Step) -> float | None:
    seconds: float | None = step.get("step_seconds")
    if seconds is None:
        return None
    return max(seconds - sum(step.get(name) or 0.0 for name in PHASES), 0.0)
