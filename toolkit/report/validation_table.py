"""A ValidationReport as people read it: predicted against measured, ours and theirs, and what was left out."""

from typing import Literal, get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.errors import SpecError
from toolkit.planner.validation.report import OomScore, RankScore, Score, Scores, ValidationReport
from toolkit.report.tables import new_grid, new_table

By = Literal["framework", "method", "group", "source"]

SCORE_HEADINGS = ("rows", "mean error", "bias", "9 of 10 below", "within 10 %")


def by_choice(text: str) -> By:
    """The parts that tables are divided into.

    Raises:
        SpecError: none of the four.
    """
    for choice in get_args(By):
        if choice == text:
            chosen: By = choice
            return chosen
    raise SpecError(f"--by {text}: needs one of {', '.join(get_args(By))}")


def validation_report(report: ValidationReport, by: By = "framework") -> Group:
    """Everything a validation says, for a console of 80 columns or more."""
    parts: list[RenderableType] = [
        _score_table("Peak memory", report.memory, by),
        Text(),
        _time_table(report, by),
        Text(),
        _verdicts(report),
        Text(),
        _baselines(report),
    ]
    for name, half in (report.halves or {}).items():
        words = "Layouts that constants were fitted on" if name == "fit" else "Layouts held out"
        table = new_table(words, *SCORE_HEADINGS)
        table.add_row("peak memory", *_cells(half.memory.overall))
        table.add_row("step time", *_cells(half.time.overall))
        parts += [Text(), _right(table), Text(f"in half of the tables, taken whole: {_ranking_words(half.ranking)}")]
    parts += [Text(), _fitted(report), Text(), _skipped(report)]
    return Group(*parts)


def _score_table(title: str, scores: Scores, by: By) -> Table:
    table = new_table(title, *SCORE_HEADINGS)
    parts: dict[str, Score] = getattr(scores, f"by_{by}")
    for name, one in parts.items():
        table.add_row(name, *_cells(one))
    table.add_section()
    table.add_row("all", *_cells(scores.overall), style="bold")
    table.columns[0].no_wrap, table.columns[0].overflow = by != "source", "fold"
    return _right(table)


def _time_table(report: ValidationReport, by: By) -> Table:
    table, contradicted = _score_table("Step time", report.time, by), report.time_with_contradicted
    if more := contradicted.rows - report.time.overall.rows:
        table.add_row(f"and {more} that their own table contradicts", *_cells(contradicted), style="dim")
        table.columns[0].no_wrap = False
    return table


def _cells(score: Score) -> tuple[str, ...]:
    return str(score.rows), _share(score.mape), _signed(score.bias), _share(score.p90), _share(score.within_10)


def _verdicts(report: ValidationReport) -> Group:
    oom, grid = report.oom, new_grid()
    grid.add_row("order of layouts", _ranking_words(report.ranking))
    if report.ranking.worst_regret is not None:
        grid.add_row("", f"regret {report.ranking.worst_regret:.1%} in the worst: {report.ranking.worst_table}")
    grid.add_row("out of memory", _oom_words(oom))
    if oom.false_of_all_that_ran is not None:
        every, beyond = oom.ran + oom.beyond_limit, oom.beyond_limit
        words = f"false alarm in {_share(oom.false_of_all_that_ran)} of all {every}"
        grid.add_row("", f"{words}, {beyond} of them above 95 % of the device themselves")
    if alarms := [f"{name} {_share(share)}" for name, share in oom.false_by_framework.items() if share]:
        grid.add_row("", f"false alarms by framework: {', '.join(alarms)}; none for others")
    if oom.noisy.rows:
        grid.add_row("", f"{_share(oom.noisy.flagged)} of {oom.noisy.rows} runs that crashed or ran out are refused")
    if oom.bounds.median_ratio is not None:
        grid.add_row(
            "longest sequence",
            f"{oom.bounds.median_ratio:.2f} x the stated one, median of {oom.bounds.rows} statements",
        )
    return Group(Text("Decisions", style="bold"), grid)


def _ranking_words(ranking: RankScore) -> str:
    if ranking.kendall_tau is None or ranking.median_regret is None:
        return "no table with three layouts of the same work"
    return (
        f"Kendall's tau {ranking.kendall_tau:.2f}, regret {ranking.median_regret:.1%} in the median and "
        f"{_share(ranking.mean_regret)} in the mean of {ranking.tables} tables ({ranking.layouts} layouts)"
    )


def _oom_words(oom: OomScore) -> str:
    missed = f"missed {_share(oom.missed)} of {oom.rows} failures" if oom.rows else "no failures to score"
    return f"{missed}, false alarm in {_share(oom.false)} of {oom.ran} runs that ran"


def _baselines(report: ValidationReport) -> Table:
    """Others on the rows they are made for, this planner on the same rows, and others wherever they give a number."""
    table = new_table("Others", "made for", "error", "bias", "ours", "all", "error", "missed", "false")
    for name, one in report.baselines.items():
        inside, overall = one.made_for, one.overall
        table.add_row(
            name.replace("_", " "),
            *(str(inside.rows), _coarse(inside.mape), _coarse(inside.bias), _coarse(one.planner.mape)),
            *(str(overall.rows), _coarse(overall.mape), _coarse(one.oom.missed), _coarse(one.oom.false)),
        )
    every, oom = report.memory.overall, report.oom
    ours = ("", "", "", "", str(every.rows), _coarse(every.mape), _coarse(oom.missed), _coarse(oom.false))
    table.add_row("this planner", *ours, style="bold")
    return _right(table)


def _fitted(report: ValidationReport) -> Table:
    grid = new_grid()
    named = [f"{name} {count}" for name, count in report.fitted_constants.items() if name != "total"]
    grid.add_row("fitted constants", f"{report.fitted_constants.get('total', 0)}: {', '.join(named)}")
    return grid


def _skipped(report: ValidationReport) -> Table:
    table = new_table("Rows not scored", "", "because")
    for what, reasons in report.skipped.items():
        for reason, count in reasons.items():
            table.add_row(what, str(count), reason)
    table.columns[1].justify = "right"
    return table


def _right(table: Table) -> Table:
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", False
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _coarse(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
