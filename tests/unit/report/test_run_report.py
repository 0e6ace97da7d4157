"""A run with evaluations as people read it: the curve beside the loss, and what ended it or was exported."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import toolkit
from toolkit.errors import ConfigError
from toolkit.report.plots import draw
from toolkit.report.run_table import run_report
from toolkit.report.runs import Run, load_run
from toolkit.run_folder import RunFolder

STEP = {"grad_norm": 1.0, "lr": 1e-3, "tokens_per_second": 9.0, "step_seconds": 0.1, "peak_rss_bytes": 10**6}
SUMMARY = {
    "loss_first": 3.0,
    "loss_last": 2.0,
    "held_out_loss_before": 3.1,
    "held_out_loss_after": 2.1,
    "exact_match_before": None,
    "exact_match_after": None,
    "example": None,
    "tokens_per_second": 9.0,
    "steps": 4,
    "skipped_steps": 0,
    "wall_seconds": 9.0,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = toolkit.plan("smollm-135m", "1xcpu", seq_len=8, global_batch=8)
    folder = RunFolder(toolkit.emit(plan, tmp_path / "run", toolkit.Recipe(model="m", workload=plan.workload)))
    steps = [{"step": number, "loss": 3 - 0.2 * number, **STEP} for number in range(1, 5)]
    folder.telemetry.write_text("".join(json.dumps(step) + "\n" for step in steps))
    folder.summary.write_text(json.dumps(SUMMARY))
    return load_run(folder.path)


def printed(run: Run) -> str:
    console = Console(width=100, record=True)
    console.print(run_report(run))
    return " ".join(console.export_text().split())


def test_the_held_out_loss_is_drawn(run: Run) -> None:
    assert run.evaluations == []
    without = draw(run)[0].read_bytes()
    lines: list[dict[str, Any]] = [{"step": 0, "held_out_loss": 3.1}, {"step": 2, "prompts_match": 0.5}]
    lines += [{"step": 4, "held_out_loss": None}]
    run.folder.evaluations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["step"] for line in run.evaluations] == [0, 2, 4]
    assert draw(run)[0].read_bytes() != without


def test_a_changed_file_is_told(run: Run) -> None:
    run.folder.evaluations.write_text("{\n{}\n")
    with pytest.raises(ConfigError, match=r"evaluations.jsonl:1: not a JSON line"):
        draw(run)


def test_what_is_not_as_in_every_run(run: Run) -> None:
    assert "exported: the weights" not in printed(run)  # a run of an earlier release
    more = {"stopped_early": "stopped early after step 4: so", "exported_step": 2}
    more |= {"prompts_match_before": 0.25, "prompts_match_after": 0.5}
    run.folder.summary.write_text(json.dumps(SUMMARY | more))
    told = printed(run)
    assert "prompts answered right 25.0% 50.0%" in told
    assert "stopped early after step 4: so" in told
    assert "exported: the weights of step 2, which had the lowest held-out loss" in told
