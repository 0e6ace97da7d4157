"""Predicted against measured: which rows are scored, what their measurement is, and the error measures.

Which rows, unless all are asked for:

- memory: curated rows of LLaMA-like models that state a peak;
- time: curated rows of any transformer that state tokens/s or the step's seconds, and state their set-up: the
  checkpointing, the ZeRO stage, fixed sequence lengths, nothing assumed by whoever wrote the table, no profiler on;
  their own table does not contradict them (contradictions.py).

A row whose time is only given as TFLOP/s or MFU is never scored: tables count those FLOPs by different conventions.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from toolkit.errors import SpecError
from toolkit.planner.cost.flops import tokens_per_step
from toolkit.planner.validation.report import Score, Scores
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.setups import Case
from toolkit.planner.validation.wording import checkpointing_stated
from toolkit.units import GiB

UNSTATED_WORDS = (
    (r"profiler", "the time was measured with a profiler on"),
    (r"assumed", "the table's set-up is assumed in part"),
    (r"variable lengths?|unpacked|truncated to max_length", "the lengths of the sequences are not stated"),
    (r"throughput exceeds|suspect", "the table's time is in doubt"),
)
"""Words in a row's notes -> why its time cannot be compared."""


class Judged(NamedTuple):
    """One row with its prediction; both in bytes, or both in seconds per optimizer step."""

    case: Case
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1.0


def score(errors: Iterable[float]) -> Score:
    """The error measures of predicted / measured - 1."""
    signed = list(errors)
    if not signed:
        return Score(rows=0)
    sizes = sorted(abs(error) for error in signed)
    return Score(
        rows=len(signed),
        mape=sum(sizes) / len(sizes),
        bias=sum(signed) / len(signed),
        p90=quantile(sizes, 0.9),
        within_10=sum(size <= 0.1 for size in sizes) / len(sizes),
    )


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of an ascending, non-empty list lies, interpolated between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def scores(judged: list[Judged]) -> Scores:
    """Overall, and by framework profile, method, group and source."""
    return Scores(
        overall=score(one.error for one in judged),
        by_framework=_by(judged, lambda one: one.case.setup.profile.name),
        by_method=_by(judged, lambda one: one.case.setup.method),
        by_group=_by(judged, lambda one: one.case.run.text("group")),
        by_source=_by(judged, lambda one: one.case.run.text("source")),
    )


def _by(judged: list[Judged], key: Callable[[Judged], str]) -> dict[str, Score]:
    parts: dict[str, list[float]] = {}
    for one in judged:
        parts.setdefault(key(one), []).append(one.error)
    return {name: score(parts[name]) for name in sorted(parts) if name}


def check_memory_row(run: MeasuredRun, *, all_rows: bool = False) -> None:
    """Refuse a row that has no peak memory, or that is not scored by default.

    Raises:
        SpecError: why.
    """
    if run.number("peak_mem_gib") is None:
        raise SpecError("peak memory is not stated")
    if not all_rows and not run.curated:
        raise SpecError("not curated")
    if not all_rows and not run.llama_like:
        raise SpecError("not LLaMA-like")


def check_time_row(run: MeasuredRun, *, all_rows: bool = False) -> None:
    """Refuse a row that has no time, or that does not state what its time depends on.

    Raises:
        SpecError: why.
    """
    if run.number("tokens_per_s_per_gpu") is None and run.number("step_time_s") is None:
        flops = run.words("tflops_per_gpu") or run.words("mfu_pct")
        raise SpecError("time is stated as TFLOP/s or MFU only" if flops else "time is not stated")
    if all_rows:
        return
    if not run.curated:
        raise SpecError("not curated")
    if reason := unstated(run):
        raise SpecError(reason)


def unstated(run: MeasuredRun) -> str | None:
    """What a row leaves open that decides its step time; None where it states its set-up."""
    if not checkpointing_stated(run):
        return "activation checkpointing is not stated"
    if re.search(r"not stated", run.text("zero_stage"), re.IGNORECASE):
        return "the ZeRO stage is not stated"
    return next((reason for words, reason in UNSTATED_WORDS if run.says(words, "notes")), None)


def measured_bytes(run: MeasuredRun) -> float:
    """Peak memory of one device.

    Raises:
        SpecError: not stated, or not above 0.
    """
    peak = run.number("peak_mem_gib")
    if peak is None or peak <= 0:
        raise SpecError("peak memory is not stated")
    return peak * GiB


def measured_seconds(case: Case) -> float:
    """Seconds of one optimizer step: from tokens/s per GPU, else as stated.

    Tokens per step are those of the set-up; it is the same as global_batch x seq_len wherever a row states both.

    Raises:
        SpecError: not stated, or the step's number of samples is not known.
    """
    run, setup = case.run, case.setup
    rate, seconds = run.number("tokens_per_s_per_gpu"), run.number("step_time_s")
    if rate and rate > 0:
        return tokens_per_step(setup) / setup.world_size / rate
    if not seconds or seconds <= 0:
        raise SpecError("time is not stated")
    if run.count("global_batch") is None and run.count("grad_accum") is None:
        raise SpecError("the samples per step are not stated")
    return seconds
