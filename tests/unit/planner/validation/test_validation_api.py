"""`toolkit validate` from CSV files to scores, tables and JSON."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from toolkit.errors import SpecError
from toolkit.planner.validation import api
from toolkit.planner.validation.api import predicted_peak, validate
from toolkit.planner.validation.contradictions import CONTRADICTED
from toolkit.planner.validation.report import ValidationReport
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.validation.setups import case_of
from toolkit.report.validation_table import by_choice, validation_report
from toolkit.units import GiB

HEADER = "id,group,model,gpu,n_gpus,seq_len,micro_batch,global_batch,framework,zero_stage,act_ckpt,method,mem_kind"
HEADER += ",peak_mem_gib,tokens_per_s_per_gpu,source,notes"


def run_line(
    name: str, *, peak: object = "", rate: object = "", checkpointing: str = "full", micro_batch: int = 1
) -> str:
    sizes = f"8,4096,{micro_batch},32"
    kinds = f"HF + DeepSpeed,3,{checkpointing},full,max_memory_allocated"
    return f"{name},mine,llama-2-7b,A100-80GB,{sizes},{kinds},{peak},{rate},table 1,"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    lines = [HEADER, run_line("A", peak=30, rate=2000), run_line("B", peak=40, rate=2500, micro_batch=2)]
    lines += [run_line("C", peak=60, rate=2600, micro_batch=4), run_line("D", rate=2000, checkpointing="")]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def oom(tmp_path: Path) -> Path:
    path = tmp_path / "oom.csv"
    path.write_text(
        "id,model,status,gpu,n_gpus,seq_len,micro_batch,zero_stage,method,source,notes\n"
        "B1,llama-2-7b,oom,A100-80GB,8,4096,4096,3,full,table 1,\n"
        "B2,llama-2-7b,odd,A100-80GB,8,4096,1,3,full,table 1,\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def corpus_report() -> ValidationReport:
    return validate(split=True)


def test_scores_are_those_of_the_estimates(runs: Path) -> None:
    report = validate(runs)
    errors = [
        predicted_peak(case_of(run)) / (float(run.text("peak_mem_gib")) * GiB) - 1
        for run in read_runs(runs)
        if run.text("peak_mem_gib")
    ]
    assert report.memory.overall.rows == 3
    assert report.memory.overall.bias == pytest.approx(sum(errors) / 3)
    assert report.memory.by_framework["hf-deepspeed"] == report.memory.overall
    assert (report.time.overall.rows, report.ranking.tables, report.ranking.layouts) == (3, 1, 3)
    assert report.skipped["memory"] == {"peak memory is not stated": 1}
    assert report.skipped["time"] == {"activation checkpointing is not stated": 1}


def test_failures_are_scored(runs: Path, oom: Path) -> None:
    report = validate(runs, oom_csv=oom)
    assert (report.oom.rows, report.oom.missed, report.oom.ran) == (1, 0.0, 3)
    assert report.skipped["oom"] == {"status 'odd' says neither out of memory nor a bound": 1}


def test_a_missing_failure_file_is_an_error(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        validate(runs, oom_csv=tmp_path / "none.csv")


def test_readings_are_compared_with_their_own_kind(runs: Path) -> None:
    case = case_of(read_runs(runs)[0])
    allocated, reserved, total = (
        predicted_peak(case._replace(reading=reading)) for reading in ("allocated", "reserved", "total")
    )
    assert allocated <= reserved < total


def test_the_corpus_is_scored_in_seconds() -> None:
    began = time.process_time()
    validate()
    # Measured: 2.3 s on one core of a server CPU.
    assert time.process_time() - began < 15


def test_every_row_is_scored_or_skipped_for_a_reason(corpus_report: ValidationReport) -> None:
    for what, found in (("memory", corpus_report.memory), ("time", corpus_report.time)):
        rows = len(read_runs(CORPUS / "runs.csv"))
        assert found.overall.rows + sum(corpus_report.skipped[what].values()) == rows
        assert sum(one.rows for one in found.by_framework.values()) == found.overall.rows
        assert sum(one.rows for one in found.by_method.values()) == found.overall.rows
    assert corpus_report.memory.overall.rows > 380
    assert corpus_report.time.overall.rows > 450


def test_the_halves_are_the_whole(corpus_report: ValidationReport) -> None:
    halves = corpus_report.halves
    assert halves is not None
    assert sum(half.memory.overall.rows for half in halves.values()) == corpus_report.memory.overall.rows
    assert min(half.memory.overall.rows for half in halves.values()) > 150
    ranking = corpus_report.ranking
    assert sum(half.ranking.tables for half in halves.values()) == ranking.tables
    assert sum(half.ranking.layouts for half in halves.values()) == ranking.layouts


def test_contradicted_times_are_shown_too(corpus_report: ValidationReport) -> None:
    kept, every = corpus_report.time.overall, corpus_report.time_with_contradicted
    assert every.rows - kept.rows == corpus_report.skipped["time"][CONTRADICTED] > 0
    assert every.mape is not None
    assert kept.mape is not None
    assert every.mape > kept.mape


def test_fitted_constants_are_counted(corpus_report: ValidationReport) -> None:
    counts = dict(corpus_report.fitted_constants)
    total = counts.pop("total")
    assert total == sum(counts.values())
    assert set(corpus_report.memory.by_framework) <= set(counts)


def test_the_planner_beats_every_baseline(corpus_report: ValidationReport) -> None:
    for name, one in corpus_report.baselines.items():
        if one.made_for.mape is not None and one.planner.mape is not None:
            assert one.planner.mape < one.made_for.mape, name
            assert one.planner.rows == one.made_for.rows


@pytest.mark.parametrize("by", ["framework", "method", "group", "source"])
def test_tables_show_every_part(corpus_report: ValidationReport, by: str) -> None:
    console = Console(width=100, record=True, markup=False, highlight=False, file=io.StringIO())
    console.print(validation_report(corpus_report, by_choice(by)))
    text = console.export_text()
    for part in (
        "Peak memory",
        "Step time",
        "Kendall's tau",
        "in the worst: ",
        "that their own table",
        "false alarms by framework",
        "megatron theoretical",
        "fitted constants",
        "not curated",
    ):
        assert part in text
    if by == "method":
        assert "qlora" in text


def test_other_parts_are_refused() -> None:
    with pytest.raises(SpecError, match="--by size: needs one of framework, method, group, source"):
        by_choice("size")


def test_no_row_is_scored_without_a_profile(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    def broken() -> None:
        raise SpecError("frameworks.yaml: damaged")

    # A damaged catalog is one error, not a reason to skip every row.
    monkeypatch.setattr(api, "profiles", broken)
    with pytest.raises(SpecError, match="damaged"):
        validate(runs)
