"""The README's figures are those that `toolkit validate --split` gives."""

import itertools
import re
from pathlib import Path

import pytest

from toolkit.planner.validation.api import validate
from toolkit.planner.validation.report import Score, ValidationReport

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## How right is the plan?")[1].split("\n## ")[0]
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
        figures = [str(score.rows), percent(score.mape, 1), percent(score.bias, 1), percent(score.within_10)]
        assert cells == figures, name


def test_formulas_of_others(report: ValidationReport) -> None:
    for name, *cells in rows("Formula"):
        if name == "this planner":
            assert cells == ["", "", "", percent(report.oom.missed), percent(report.oom.false)]
            continue
        other = report.baselines[BASELINES[name.split()[0]]]
        made_for = [str(other.made_for.rows), percent(other.made_for.mape), percent(other.planner.mape)]
        assert cells == [*made_for, percent(other.oom.missed), percent(other.oom.false)], name


def test_time_and_order(report: ValidationReport) -> None:
    assert report.halves is not None
    words = " ".join(SECTION.split())
    time, held = report.time.overall, report.halves["held_out"].time.overall
    assert f"Step time: {time.rows} rows, mean error {percent(time.mape, 1)}, held out {percent(held.mape, 1)}" in words
    assert f"Kendall's tau {report.ranking.kendall_tau:.2f}" in words
    regret, tables = percent(report.ranking.median_regret, 1), report.ranking.tables
    assert f"{regret} more than the fastest measured, in the median of {tables} tables" in words
