"""Score the planner on published runs: one function from CSV files to a report."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from toolkit.errors import SpecError
from toolkit.planner.cost import constants
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.memory import estimate_memory
from toolkit.planner.profile import profiles
from toolkit.planner.setup import Setup
from toolkit.planner.validation.baselines import BASELINES, Baseline
from toolkit.planner.validation.contradictions import CONTRADICTED, Twins
from toolkit.planner.validation.negatives import (
    NEEDED,
    KnownRuns,
    check_negative,
    is_bound,
    is_clean,
    is_noisy,
)
from toolkit.planner.validation.oom import Evidence, score_oom
from toolkit.planner.validation.ranking import rank
from toolkit.planner.validation.report import BaselineScore, HalfReport, ValidationReport
from toolkit.planner.validation.runs import CORPUS, MeasuredRun, read_runs
from toolkit.planner.validation.score import (
    Judged,
    check_memory_row,
    check_time_row,
    measured_bytes,
    measured_seconds,
    score,
    scores,
)
from toolkit.planner.validation.setups import Case, case_of
from toolkit.planner.validation.split import in_fit_half, table_in_fit_half


class _Row(NamedTuple):
    """A row and its set-up, or why it has none."""

    run: MeasuredRun
    case: Case | str

    def need_case(self) -> Case:
        """The set-up.

        Raises:
            SpecError: the row does not say enough.
        """
        if isinstance(self.case, str):
            raise SpecError(self.case)
        return self.case


class JudgedRuns(NamedTuple):
    """Rows with their predictions."""

    memory: list[Judged]
    """In bytes."""
    time: list[Judged]
    """In seconds per step, without those that their own table contradicts."""
    stated_time: list[Judged]
    """The same with them."""
    skipped: dict[str, Counter[str]]
    """memory, time or oom -> why rows are not here -> how many."""


def validate(
    runs_csv: Path | None = None, *, oom_csv: Path | None = None, all_rows: bool = False, split: bool = False
) -> ValidationReport:
    """Predict every usable row and compare.

    Args:
        runs_csv: measured runs with the columns of toolkit/planner/corpus/runs.csv; None: that file itself, and the
            out-of-memory runs beside it.
        oom_csv: runs that ran out of memory, with the columns of toolkit/planner/corpus/oom_and_bounds.csv.
        all_rows: also score rows that are not curated, whose model is not LLaMA-like (memory), or that leave open what
            their time depends on.
        split: also report the layouts that constants were fitted on apart from the others.

    Raises:
        SpecError: a file cannot be read, or lacks needed columns. Rows that cannot be used are counted in `skipped`.
    """
    if runs_csv is None:
        runs_csv, oom_csv = CORPUS / "runs.csv", oom_csv or CORPUS / "oom_and_bounds.csv"
    fitted = _fitted_constants()
    runs = read_runs(runs_csv)
    memory, time, stated, skipped = judge_runs(runs, all_rows=all_rows)
    evidence = _evidence(oom_csv, runs, memory, skipped["oom"])
    return ValidationReport(
        memory=scores(memory),
        time=scores(time),
        time_with_contradicted=score(one.error for one in stated),
        ranking=rank(time),
        oom=score_oom(evidence, _predicted_total),
        baselines={name: _baseline_score(one, memory, evidence) for name, one in BASELINES.items()},
        fitted_constants=fitted,
        skipped={what: dict(reasons.most_common()) for what, reasons in skipped.items()},
        halves={"fit": _half(memory, time, fit=True), "held_out": _half(memory, time, fit=False)} if split else None,
    )


def judge_runs(runs: list[MeasuredRun], *, all_rows: bool = False) -> JudgedRuns:
    """Every row that is scored, with its prediction; the others are counted by their reasons."""
    rows = [_Row(run, _case_or_reason(run)) for run in runs]
    skipped: dict[str, Counter[str]] = {"memory": Counter(), "time": Counter(), "oom": Counter()}
    memory = list(_judged(rows, _memory_judge(all_rows), skipped["memory"]))
    stated = list(_judged(rows, _time_judge(all_rows), skipped["time"]))
    time = stated if all_rows else _uncontradicted(stated, runs, skipped["time"])
    return JudgedRuns(memory, time, stated, skipped)


def _case_or_reason(run: MeasuredRun) -> Case | str:
    try:
        return case_of(run)
    except SpecError as error:
        return str(error)


def _judged(rows: Iterable[_Row], judge: Callable[[_Row], Judged], skipped: Counter[str]) -> Iterable[Judged]:
    for row in rows:
        try:
            yield judge(row)
        except SpecError as error:
            skipped[str(error)] += 1


def _memory_judge(all_rows: bool) -> Callable[[_Row], Judged]:
    def judge(row: _Row) -> Judged:
        check_memory_row(row.run, all_rows=all_rows)
        case = row.need_case()
        measured = measured_bytes(row.run)
        return Judged(case, predicted_peak(case), measured)

    return judge


def _time_judge(all_rows: bool) -> Callable[[_Row], Judged]:
    def judge(row: _Row) -> Judged:
        check_time_row(row.run, all_rows=all_rows)
        case = row.need_case()
        measured = measured_seconds(case)
        return Judged(case, estimate_time(case.setup).step_seconds, measured)

    return judge


def _uncontradicted(judged: list[Judged], runs: list[MeasuredRun], skipped: Counter[str]) -> list[Judged]:
    twins = Twins([*runs, *_corpus_runs()])
    kept = [one for one in judged if not twins.contradict(one.case.run)]
    if len(kept) < len(judged):
        skipped[CONTRADICTED] += len(judged) - len(kept)
    return kept


def predicted_peak(case: Case) -> float:
    """Predicted bytes of the stage that was read, in the reading that the row states."""
    estimate = estimate_memory(case.setup, case.stage)
    match case.reading:
        case "allocated":
            return float(estimate.allocated_bytes)
        case "reserved":
            return float(estimate.reserved_bytes)
        case "total":
            return float(estimate.total_bytes)


def _predicted_total(setup: Setup) -> float:
    return float(estimate_memory(setup).total_bytes)


def _evidence(oom_csv: Path | None, runs: list[MeasuredRun], memory: list[Judged], skipped: Counter[str]) -> Evidence:
    evidence = Evidence(clean=[], noisy=[], bounds=[], ran=[(one.case, one.measured) for one in memory])
    if oom_csv is None:
        return evidence
    known = KnownRuns([*runs, *_corpus_runs()])
    for row in read_runs(oom_csv, NEEDED):
        try:
            case = known.case_of(row)
            if is_noisy(row):
                evidence.noisy.append(case)
            elif is_bound(row):
                evidence.bounds.append(case)
            elif is_clean(row):
                check_negative(case)
                evidence.clean.append(case)
            else:
                raise SpecError(f"status {row.text('status')!r} says neither out of memory nor a bound")
        except SpecError as error:
            skipped[str(error)] += 1
    return evidence


def _corpus_runs() -> list[MeasuredRun]:
    path = CORPUS / "runs.csv"
    return read_runs(path) if path.exists() else []


def _baseline_score(baseline: Baseline, memory: list[Judged], evidence: Evidence) -> BaselineScore:
    predictions = [(one, baseline.predict(one.case.setup)) for one in memory]
    judged = [one._replace(predicted=predicted) for one, predicted in predictions if predicted is not None]
    every = scores(judged)
    ours = [one for one, predicted in predictions if predicted is not None]
    return BaselineScore(
        source=baseline.source,
        scope=baseline.scope,
        made_for=score(one.error for one in judged if baseline.made_for(one.case.setup)),
        planner=score(one.error for one in ours if baseline.made_for(one.case.setup)),
        overall=every.overall,
        by_framework=every.by_framework,
        oom=score_oom(evidence, baseline.predict, with_bounds=False),
    )


def _half(memory: list[Judged], time: list[Judged], *, fit: bool) -> HalfReport:
    def part(judged: list[Judged]) -> list[Judged]:
        return [one for one in judged if in_fit_half(one.case.run) == fit]

    ranking = rank(time, lambda table: table_in_fit_half(table) == fit)
    return HalfReport(memory=scores(part(memory)), time=scores(part(time)), ranking=ranking)


def _fitted_constants() -> dict[str, int]:
    counts = {name: len(profile.fitted) for name, profile in profiles().items()}
    counts["all frameworks"] = len(constants.FITTED)
    return {**counts, "total": sum(counts.values())}
