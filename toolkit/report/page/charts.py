"""What the page's curves are drawn from: which lines are in which chart, and every run's numbers, few enough."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from toolkit.report.happenings import EVALUATED, LANES, Happening
from toolkit.report.readings import readings
from toolkit.report.results import Measured
from toolkit.report.series import Column, last_of_each, stretch, thinned
from toolkit.report.texts import shown

MOST_POINTS = 2000
"""Of one line: twice the pixels of a chart."""
ALL_POINTS = 24_000
"""Of one line in all runs together."""
FEWEST_POINTS = 200
"""However many runs there are."""
MOST_MARKS = 400
"""Of a run, on the time line."""
_DIGITS = 6


class Line(NamedTuple):
    """One curve."""

    column: str
    """Of telemetry, or of the evaluations."""
    label: str
    """Beside its value; empty where the chart has one line."""
    style: str = "main"
    """main (may be smoothed), exact (never), pale (behind the others), points (few values, joined), or dashed."""


class Chart(NamedTuple):
    """Curves over the steps that share an axis."""

    key: str
    """Its name in the page."""
    title: str
    """Above it."""
    unit: str
    """number, loss, percent, seconds, bytes or rate: how values are written."""
    lines: tuple[Line, ...]
    """Curves of every run."""
    log: bool = False
    """Whether its axis is logarithmic from the start."""
    from_zero: bool = False
    """Whether its linear axis begins at 0."""
    hint: str = ""
    """What one should know to read it."""


CHARTS = (
    Chart("loss", "Loss", "loss", (Line("loss", "training"), Line("held_out_loss", "held out", "points")),
          hint="nats per supervised token"),
    Chart("answers", "Held-out answers", "percent",
          (Line("exact_match", "exact match", "points"), Line("prompts_match", "prompts right", "points")),
          from_zero=True),
    Chart("lr", "Learning rate", "number", (Line("lr", "", "exact"),)),
    Chart("norm", "Gradient norm", "number",
          (Line("grad_norm", "before clipping", "pale"), Line("clipped_norm", "after", "exact")), log=True,
          hint="L2, all ranks"),
    Chart("rate", "Throughput", "rate", (Line("tokens_per_second", ""),), from_zero=True,
          hint="tokens/s, all ranks, without padding"),
    Chart("mfu", "MFU", "percent", (Line("mfu", ""),), from_zero=True,
          hint="model FLOPs of the real tokens over the devices' peak"),
    Chart("step", "Step time", "seconds", (Line("step_seconds", ""),), from_zero=True),
    Chart("waits", "Waiting and overhead", "seconds",
          (Line("data_seconds", "for data", "exact"), Line("waiting_seconds", "for ranks", "dashed"),
           Line("exchange_seconds", "exchange", "points"), Line("other_seconds", "other", "pale")), from_zero=True),
    Chart("memory", "Peak memory of rank 0", "bytes",
          (Line("peak_allocated_bytes", "allocated", "exact"), Line("peak_reserved_bytes", "reserved", "dashed"),
           Line("peak_rss_bytes", "resident", "exact")), from_zero=True, hint="since its start"),
    Chart("scale", "Loss scale", "number", (Line("loss_scale", "", "exact"),), log=True),
    Chart("change", "Relative change of the weights", "number", (Line("relative_change", "", "points"),), log=True),
    Chart("sent", "Sent by each rank", "bytes", (Line("sent_bytes", "", "exact"),), from_zero=True, hint="per step"),
)  # fmt: skip

LANE_NAMES = {"rate": "rate lowered", "skipped": "update left out"}


def chart_data(runs: Sequence[Measured]) -> dict[str, Any]:
    """What the page's script reads: `charts`, `lanes` and `runs`, each with its numbers, planned values and events."""
    most = min(MOST_POINTS, max(ALL_POINTS // max(len(runs), 1), FEWEST_POINTS))
    drawn = [_run_data(run, most) for run in runs]
    there = {column for one in drawn for column in (*one["y"], *one["measured"]["y"])}
    there -= set() if any(_varies(run.columns.get("loss_scale", ())) for run in runs) else {"loss_scale"}
    charts = [
        chart._replace(lines=lines)._asdict() | {"lines": [line._asdict() for line in lines]}
        for chart in CHARTS
        if (lines := tuple(line for line in chart.lines if line.column in there))
    ]
    used = {mark["lane"] for one in drawn for mark in one["events"]}
    lanes = [{"key": lane, "name": LANE_NAMES.get(lane, lane)} for lane in LANES if lane in used]
    return {"charts": charts, "lanes": lanes, "runs": drawn}


def kept_marks(marks: Sequence[Happening], most: int = MOST_MARKS) -> list[Happening]:
    """What is shown of very many: of every lane an equal share of the room, evenly spaced."""
    if len(marks) <= most:
        return list(marks)
    lanes = {lane: [one for one in marks if one.lane == lane] for lane in dict.fromkeys(one.lane for one in marks)}
    share = max(most // len(lanes), 1)
    kept = [one for lane in lanes.values() for one in lane[:: stretch(len(lane), share)]]
    return sorted(kept, key=lambda one: one.step)


def _run_data(run: Measured, most: int) -> dict[str, Any]:
    found, record = run.columns, run.record
    wanted = {line.column for chart in CHARTS for line in chart.lines}
    thin = {name: thinned(column, most) for name, column in found.items() if name in wanted}
    is_thin = stretch(len(record.steps), most) > 1
    evaluated = {line.column for chart in CHARTS for line in chart.lines if line.column in EVALUATED}
    evaluations = record.evaluations[:: stretch(len(record.evaluations), most)]
    values = {name: [one.get(name) for one in evaluations] for name in sorted(evaluated)}
    return {
        "name": shown(record.name),
        "stretch": stretch(len(record.steps), most),
        "x": {name: _rounded(last_of_each(found[name], most), 12) for name in ("step", "time", "seen")},
        "y": {name: _rounded(one.mean) for name, one in thin.items()},
        "bands": {name: [_rounded(one.low), _rounded(one.high)] for name, one in thin.items()} if is_thin else {},
        "measured": {
            "step": [one["step"] for one in evaluations],
            "y": {name: _rounded(column) for name, column in values.items() if _has_any(column)},
        },
        "planned": dict(_planned(run)),
        "events": [
            {"step": mark.step, "lane": mark.lane, "words": mark.words, "weight": mark.weight}
            for mark in kept_marks(run.happenings)
        ],
    }


def _planned(run: Measured) -> Iterator[tuple[str, list[float]]]:
    """By chart: what was predicted, and between what nine of ten runs are measured, where that is known.

    A rate is that of the rows as they are: padding is no token.
    """
    compared, plan = run.record.compared, readings(run.record.plan)
    fill = compared.fill if compared else 1.0
    yield "step", list(plan.step_seconds)
    yield "rate", [fill * plan.tokens_per_second * plan.step_seconds.predicted / one for one in plan.step_seconds]
    yield "mfu", [fill * plan.mfu * plan.step_seconds.predicted / one for one in plan.step_seconds]
    yield "memory", list(plan.allocated if "peak_allocated_bytes" in run.columns else plan.total)


def _varies(column: Sequence[float | None]) -> bool:
    return len({value for value in column if value is not None}) > 1


def _has_any(column: Sequence[float | None]) -> bool:
    return any(value is not None for value in column)


def _rounded(column: Column, digits: int = _DIGITS) -> Column:
    """Digits that nobody can see are most of a page's size."""
    return [value if value is None or isinstance(value, int) else float(f"{value:.{digits}g}") for value in column]
