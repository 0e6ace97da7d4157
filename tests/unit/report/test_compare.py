"""Predicted against measured, from what a run leaves in its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.report.compare import compare_runs, comparison_json, pairs_in_order
from toolkit.report.compare_table import comparison_report
from toolkit.report.readings import readings

GPU = {"peak_allocated_bytes": 10 * 2**30, "peak_reserved_bytes": 12 * 2**30}
MakePlan = Callable[..., Plan]


def write_run(
    folder: Path, plan: Plan, seconds: list[float], *, peaks: dict[str, int], ranks: list[dict[str, int]] | None = None
) -> Path:
    """A run folder as training leaves it, with one step per entry of `seconds` and half of the tokens padding."""
    folder.mkdir()
    plan.save(folder / "plan.json")
    recipe = {"model": plan.model.name, "workload": plan.workload.model_dump()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("ds_config.json", "accelerate.yaml"):
        (folder / name).write_text("{}")
    tokens = plan.tokens_per_step // 2
    steps = [
        {"step": number, "step_seconds": one, "tokens": tokens, "tokens_per_second": tokens / one, **peaks}
        for number, one in enumerate(seconds, start=1)
    ]
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    if ranks is not None:
        (folder / "summary.json").write_text(json.dumps({"memory_by_rank": ranks}))
    return folder


def told(folders: list[Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(comparison_json(compare_runs(folders)))
    return found


def test_the_median_without_the_first_steps(tmp_path: Path, small: Plan) -> None:
    run = write_run(tmp_path / "run", small, [90.0, 80.0, 70.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0], peaks=GPU)
    (one,) = compare_runs([run])
    assert (one.warm_up, one.steps) == (3, 6)
    assert one.step.measured == 12.5
    assert one.step.ratio == pytest.approx(small.time.step_seconds / 12.5)
    long = write_run(tmp_path / "long", small, [100.0] * 5 + [1.0] * 95, peaks=GPU)
    (one,) = compare_runs([long])
    assert (one.warm_up, one.steps, one.step.measured) == (5, 95, 1.0)
    short = write_run(tmp_path / "short", small, [3.0], peaks=GPU)
    (one,) = compare_runs([short])
    assert (one.warm_up, one.steps, one.step.measured) == (0, 1, 3.0)


def test_throughput_counts_real_tokens_on_both_sides(tmp_path: Path, small: Plan) -> None:
    run = write_run(tmp_path / "run", small, [small.time.step_seconds] * 6, peaks=GPU)
    (one,) = compare_runs([run])
    rate = one.quantities[1]
    assert one.fill == 0.5
    assert rate.measured == pytest.approx(small.tokens_per_second_per_gpu / 2)
    assert rate.ratio == pytest.approx(1.0)
    assert rate.inside
    assert one.step.inside


def test_memory_of_the_worst_rank(tmp_path: Path, small: Plan) -> None:
    ranks = [
        {
            "rank": rank,
            "rss_at_start_bytes": 1,
            "peak_rss_bytes": 2,
            **{name: size + rank for name, size in GPU.items()},
        }
        for rank in (0, 1, 2, 3, 7, 6, 5, 4)
    ]
    run = write_run(tmp_path / "run", small, [1.0] * 6, peaks=GPU, ranks=ranks)
    (one,) = compare_runs([run])
    assert (one.worst_rank, one.num_ranks) == (7, 8)
    by_name = {quantity.name: quantity for quantity in one.quantities}
    assert by_name["allocated_bytes"].measured == GPU["peak_allocated_bytes"] + 7
    assert by_name["allocated_bytes"].predicted == readings(small).allocated
    assert by_name["reserved_bytes"].measured == GPU["peak_reserved_bytes"] + 7


def test_a_cpu_is_compared_by_what_it_grew(tmp_path: Path, make_plan_of: MakePlan) -> None:
    work = {"seq_len": 512, "global_batch": 8, "precision": "fp32"}
    made = make_plan_of("smollm-135m", "2xcpu", work=work, zero_stage=2)
    # Rank 0 is larger, rank 1 grew more.
    ranks = [
        {"rank": 0, "rss_at_start_bytes": 5 * 2**30, "peak_rss_bytes": 7 * 2**30},
        {"rank": 1, "rss_at_start_bytes": 1 * 2**30, "peak_rss_bytes": 4 * 2**30},
    ]
    run = write_run(tmp_path / "run", made, [1.0] * 6, peaks={"peak_rss_bytes": 7 * 2**30}, ranks=ranks)
    (one,) = compare_runs([run])
    memory = one.quantities[-1]
    assert (one.worst_rank, memory.measured) == (1, 3 * 2**30)
    assert memory.name == "resident_growth_bytes"
    assert memory.predicted.predicted == made.memory.reserved_bytes


def test_a_run_without_ranks_still_compares(tmp_path: Path, small: Plan) -> None:
    run = write_run(tmp_path / "run", small, [1.0] * 6, peaks=GPU)
    (one,) = compare_runs([run])
    assert (one.worst_rank, one.num_ranks) == (0, 1)
    assert one.quantities[-1].measured == GPU["peak_reserved_bytes"]


def test_several_runs_are_ranked_by_the_clock(tmp_path: Path, small: Plan, make_plan_of: MakePlan) -> None:
    work = {"seq_len": 4096, "global_batch": 64}
    slow = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=work, zero_stage=3, activation_checkpointing="full")
    middle = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=work, zero_stage=1, activation_checkpointing="full")
    assert small.time.step_seconds < middle.time.step_seconds < slow.time.step_seconds
    runs = [
        write_run(tmp_path / "slow", slow, [9.0] * 3, peaks=GPU),
        write_run(tmp_path / "small", small, [2.0] * 3, peaks=GPU),
        write_run(tmp_path / "middle", middle, [1.0] * 3, peaks=GPU),
    ]
    found = compare_runs(runs)
    assert [one.run.name for one in found] == ["middle", "small", "slow"]
    assert [one.measured_place for one in found] == [1, 2, 3]
    assert [one.predicted_place for one in found] == [2, 1, 3]
    assert pairs_in_order(found) == (2, 3)
    json_runs = told(runs)
    assert (json_runs["pairs_in_order"], json_runs["pairs"]) == (2, 3)
    assert [one["predicted_place"] for one in json_runs["runs"]] == [2, 1, 3]
    assert json_runs["runs"][0]["quantities"]["step_seconds"]["measured"] == 1.0


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_hold_everything(width: int, tmp_path: Path, small: Plan) -> None:
    runs = [
        write_run(tmp_path / "a", small, [2.0] * 6, peaks=GPU),
        write_run(tmp_path / "b", small, [small.time.step_seconds] * 6, peaks=GPU),
    ]
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(comparison_report(compare_runs(runs)))
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    flat = " ".join(text.split())
    for words in (
        "10.0 GiB",
        "12.0 GiB",
        "2.0 s",
        "1.00",
        "peak allocated",
        "50% of full sequences",
        "0 of 0 pairs in order",
    ):
        assert words in flat, words


def test_what_cannot_be_compared(tmp_path: Path, small: Plan) -> None:
    run = write_run(tmp_path / "run", small, [1.0], peaks=GPU)
    with pytest.raises(ConfigError, match="given twice"):
        compare_runs([run, run])
    (run / "telemetry.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"holds no steps.*toolkit launch"):
        compare_runs([run])
    (run / "telemetry.jsonl").unlink()
    with pytest.raises(ConfigError, match="train the run first"):
        compare_runs([run])
    with pytest.raises(ConfigError, match="missing"):
        compare_runs([tmp_path])


def broken_step(run: Path, **changes: object) -> None:
    """The last step of a run with other cells; None removes one."""
    lines = (run / "telemetry.jsonl").read_text().splitlines()
    step = {key: value for key, value in {**json.loads(lines[-1]), **changes}.items() if value is not None}
    (run / "telemetry.jsonl").write_text("\n".join([*lines[:-1], json.dumps(step)]) + "\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_seconds": None}, "step 3 has no step_seconds"),
        ({"step_seconds": 0.0}, "step 3 step_seconds is 0.0"),
        ({"tokens_per_second": "fast"}, "tokens_per_second is 'fast'"),
        ({"tokens": None}, "has no tokens"),
        ({"peak_reserved_bytes": None}, "has no peak_reserved_bytes"),
    ],
)
def test_a_damaged_step_names_file_and_key(tmp_path: Path, small: Plan, changes: dict[str, object], words: str) -> None:
    run = write_run(tmp_path / "run", small, [1.0] * 3, peaks=GPU)
    broken_step(run, **changes)
    with pytest.raises(ConfigError) as caught:
        compare_runs([run])
    assert "telemetry.jsonl" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ('{"memory_by_rank": [', "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"memory_by_rank": 3}', "memory_by_rank needs one object per rank"),
        (
            '{"memory_by_rank": [{"rank": 0, "peak_allocated_bytes": 5}]}',
            "memory_by_rank[0] has no peak_reserved_bytes",
        ),
        (
            '{"memory_by_rank": [{"rank": 0, "peak_allocated_bytes": 5, "peak_reserved_bytes": 6},'
            ' {"rank": 1, "peak_allocated_bytes": 5}]}',
            "memory_by_rank[1] has no peak_reserved_bytes",
        ),
        ('{"memory_by_rank": [{"peak_rss_bytes": 5}]}', "memory_by_rank[0] has no rank"),
    ],
)
def test_a_damaged_summary_names_file_and_key(tmp_path: Path, small: Plan, summary: str, words: str) -> None:
    run = write_run(tmp_path / "run", small, [1.0] * 3, peaks=GPU)
    (run / "summary.json").write_text(summary)
    with pytest.raises(ConfigError) as caught:
        compare_runs([run])
    assert "summary.json" in str(caught.value)
    assert words in str(caught.value)


def test_a_telemetry_line_that_is_no_object_is_refused(tmp_path: Path, small: Plan) -> None:
    run = write_run(tmp_path / "run", small, [1.0] * 3, peaks=GPU)
    lines = (run / "telemetry.jsonl").read_text().splitlines()
    (run / "telemetry.jsonl").write_text("\n".join([lines[0], "5", lines[2]]) + "\n")
    with pytest.raises(ConfigError, match=r"telemetry\.jsonl:2: not a JSON line"):
        compare_runs([run])
