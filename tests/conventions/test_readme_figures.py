"""The figures of docs/how-right.md, and those of them in the README, are what `toolkit validate --split` gives."""

import itertools
import re
from pathlib import Path

import pytest

from toolkit.planner.validation.api import judge_runs, validate
from toolkit.planner.validation.report import Score, ValidationReport
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.validation.score import score

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
SECTION = (ROOT / "docs" / "how-right.md").read_text(encoding="utf-8")
WORDS = " ".join(SECTION.split())
BASELINES = {
    "DeepSpeed": "deepspeed_estimate_zero",
    "EleutherAI": "eleutherai_calc",
    "Unsloth": "unsloth_vram",
    "accelerate": "accelerate_estimate_memory",
}


@pytest.fixture(scope="module")
def report() -> ValidationReport:
    return validate(split=True)


def rows(first: str) -> list[list[str]]:
    """The cells of the table whose header begins with `first`."""
    lines = SECTION.split(f"| {first} |")[1].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def test_peak_memory(report: ValidationReport) -> None:
    assert report.halves is not None
    named: dict[str, Score] = {"all": report.memory.overall, "held out": report.halves["held_out"].memory.overall}
    for name, *cells in rows("Peak memory"):
        profile = re.search(r"\((\S+)\)$", name)
        score = report.memory.by_framework[profile[1]] if profile else named[name]
        figures = [
            str(score.rows),
            percent(score.mape, 1),
            f"{100 * (score.bias or 0):+.1f} %",
            percent(score.within_10),
        ]
        assert cells == figures, name


def test_the_readme_tells_the_means(report: ValidationReport) -> None:
    memory, time, oom = report.memory.overall, report.time.overall, report.oom
    assert f"Peak memory within {percent(memory.mape, 1)} in the mean" in README
    assert f"step time within {percent(time.mape, 1)}; no run that ran out of memory was missed" in README
    assert (oom.missed, percent(oom.false)) == (0, "2 %")
    assert "2 % of those that ran would have been refused" in README


def test_formulas_of_others(report: ValidationReport) -> None:
    for name, *cells in rows("Formula"):
        if name == "this planner":
            assert cells == ["", "", "", percent(report.oom.missed), percent(report.oom.false)]
            continue
        other = report.baselines[BASELINES[name.split()[0]]]
        made_for = [str(other.made_for.rows), percent(other.made_for.mape), percent(other.planner.mape)]
        assert cells == [*made_for, percent(other.oom.missed), percent(other.oom.false)], name


def test_every_framework_has_its_row(report: ValidationReport) -> None:
    named = {found[1] for name, *_ in rows("Peak memory") if (found := re.search(r"\((\S+)\)$", name))}
    assert named == set(report.memory.by_framework)


def test_the_rows_that_are_scored() -> None:
    runs = read_runs(CORPUS / "runs.csv")
    judged = judge_runs(runs)
    scored = {one.case.run.text("id") for one in (*judged.memory, *judged.time)}
    assert f"of {len(runs):,} rows the {len(scored)} that are curated" in WORDS
    assert f"predictions against {len(scored)} published runs" in README


def test_megatron() -> None:
    judged = judge_runs(read_runs(CORPUS / "runs.csv"), all_rows=True).memory
    megatron = [one for one in judged if one.case.setup.profile.name == "megatron"]
    assert not any(one.case.run.llama_like for one in megatron)
    golden, tiny = (
        [one.error for one in megatron if one.case.run.text("group") == group]
        for group in ("megatron_golden", "megatron_golden_tiny")
    )
    one, two, three = (percent(error, 1) for error in sorted(golden, reverse=True))
    assert f"3 runs of 7B, whose errors are {one}, {two} and {three}" in WORDS
    assert f"{len(tiny)} of tiny models, mean error {percent(score(tiny).mape)}" in WORDS


def test_false_alarms(report: ValidationReport) -> None:
    oom = report.oom
    every = oom.ran + oom.beyond_limit
    assert f"among the {oom.ran} runs whose own peak is below 95 % of the device" in WORDS
    assert f"of all {every} that ran, {percent(oom.false_of_all_that_ran, 1)} are refused" in WORDS
    by_size = sorted(oom.false_by_framework.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} {percent(share)}" for name, share in by_size if share)
    assert f"not evenly spread: {words}, none of the others" in WORDS


def test_time_and_order(report: ValidationReport) -> None:
    assert report.halves is not None
    time, held, every = report.time.overall, report.halves["held_out"].time.overall, report.time_with_contradicted
    assert f"Step time: {time.rows} rows, mean error {percent(time.mape, 1)}, held out {percent(held.mape, 1)}" in WORDS
    more = every.rows - time.rows
    assert f"and {percent(every.mape, 1)} with the {more} rows that their own table contradicts" in WORDS
    ranking = report.ranking
    assert f"Kendall's tau {ranking.kendall_tau:.2f}" in WORDS
    median, mean, worst = percent(ranking.median_regret, 1), percent(ranking.mean_regret), percent(ranking.worst_regret)
    assert f"{median} more than the fastest measured in the median of {ranking.tables} tables" in WORDS
    assert f"{mean} in the mean, and {worst} in the worst" in WORDS
