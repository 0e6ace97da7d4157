"""The cases of benchmarks/one_gpu_runs.py, and that a row says all that is needed to plan its run again."""

from pathlib import Path
from typing import Any

import pytest

from one_gpu.cases import CASES, REHEARSAL, Case, planned
from one_gpu.rows import Failures, Table, oom_row, run_row
from toolkit.planner.validation.negatives import KnownRuns, is_clean
from toolkit.planner.validation.runs import MeasuredRun, read_runs
from toolkit.planner.validation.setups import case_of
from toolkit.specs.catalog_lookup import find_device
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB

H200 = ClusterSpec.resolve("1xH200")
MACHINE = {
    "cuda": True,
    "gpu": "NVIDIA H200",
    "driver": "580.159.04",
    "idle_device_bytes": GiB // 2,
    "versions": {"torch": "2.11.0+cu130", "transformers": "5.17.0", "deepspeed": "0.19.8", "accelerate": "1.15.0"},
}
FOUND: dict[str, Any] = {
    "status": "ok",
    "step_seconds": [0.30, 0.25, 0.20, 0.90, 0.26],
    "optimizer": "DeepSpeed FusedAdam",
    "host_bytes": 3 * GiB,
    "threads": 16,
    "allocated_bytes": 20 * GiB,
    "reserved_bytes": 22 * GiB,
    "device_bytes": 23 * GiB,
    "retries": 0,
}
DECISIVE = (
    *("shape", "seq_len", "micro_batch", "grad_accum", "dp", "tp", "pp", "sp", "cp", "zero_stage", "offload"),
    *("checkpointing", "method", "precision", "states", "fused_loss", "fused_mlp", "tiled_mlp"),
)
"""What of a Setup a row must carry."""


def written(table: Table, path: Path, row: dict[str, object]) -> MeasuredRun:
    """The row, through the file."""
    table.add(row)
    return read_runs(path, needed=("id",))[-1]


def test_names_are_unique() -> None:
    keys = [case.key for case in (*CASES, *REHEARSAL)]
    assert len(set(keys)) == len(keys)


def test_the_cases_cover_what_the_planner_knows_of_zero() -> None:
    assert {case.model for case in CASES} == {"llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"}
    assert {case.zero_stage for case in CASES} == {0, 1, 2, 3}
    assert {case.offload for case in CASES} == {"none", "optimizer", "all"}
    assert {case.seq_len for case in CASES} == {1024, 2048, 4096, 8192, 16384}
    assert {1, 2, 4, 8} == {case.micro_batch for case in CASES}
    # A slot may end early: the first dozen has one of each kind.
    first = CASES[:12]
    assert {case.zero_stage for case in first} == {0, 1, 2, 3}
    assert {case.offload for case in first} == {"none", "optimizer", "all"}
    assert {case.method for case in first} == {"full", "lora"}
    assert {case.chunked_loss for case in first} == {case.checkpointing for case in first} == {False, True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_offloaded_states_stay_inside_128_gib(case: Case) -> None:
    assert planned(case, H200).plan.memory.host_bytes < 120 * GiB


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_row_says_all_that_decides(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    run = written(Table(path, like="runs.csv"), path, run_row(case, H200, found=FOUND, machine=MACHINE))
    read, ran = case_of(run), planned(case, H200).setup
    assert {name: getattr(read.setup, name) for name in DECISIVE} == {name: getattr(ran, name) for name in DECISIVE}
    assert read.setup.profile.name == ran.profile.name == "hf-deepspeed"
    assert read.setup.cluster.device == H200.device == find_device(run.text("gpu"))
    if case.method == "lora":
        assert (read.setup.lora_rank, read.setup.lora_targets) == (ran.lora_rank, ran.lora_targets)
    assert (read.reading, run.number("peak_mem_gib")) == ("reserved", 22.0)
    assert run.curated
    assert run.llama_like


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_negative_says_all_that_decides(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "oom.csv"
    found = {"phase": "steps", "why": "CUDA out of memory"}
    row = written(Table(path, like="oom_and_bounds.csv"), path, oom_row(case, H200, found=found, machine=MACHINE))
    assert is_clean(row)
    known = run_row(Case(case.model, 0, 512, 1), H200, found=FOUND, machine=MACHINE)
    run = MeasuredRun({name: str(cell) for name, cell in known.items()} | {"act_ckpt": "", "notes": ""})
    read, ran = KnownRuns([run]).case_of(row), planned(case, H200).setup
    assert {name: getattr(read.setup, name) for name in DECISIVE} == {name: getattr(ran, name) for name in DECISIVE}
    assert read.run.text("act_ckpt") == ("full" if case.checkpointing else "none")


def test_numbers_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    case = Case("llama-3.2-1b", 3, 2048, 4, grad_accum=2)
    run = written(Table(path, like="runs.csv"), path, run_row(case, H200, found=FOUND, machine=MACHINE))
    assert run.number("step_time_s") == 0.26
    assert run.number("tokens_per_s_per_gpu") == pytest.approx(2048 * 4 * 2 / 0.26, rel=1e-5)
    assert run.text("framework") == "HF transformers 5.17.0 + DeepSpeed 0.19.8 (toolkit zero engine)"
    assert run.text("optimizer") == "AdamW (DeepSpeed FusedAdam), fp32 master"
    assert (run.text("mem_kind"), run.text("mem_quality")) == ("max_memory_reserved GiB", "A")
    notes = run.text("notes").split("; ")
    assert notes[:4] == ["allocated=20.000", "reserved=22.000", "device=23.000", "host=3.000"]
    assert {"torch 2.11.0+cu130", "driver 580.159.04", "device with an empty context=0.500"} <= set(notes)


def test_a_reserved_peak_cut_by_the_device_is_not_the_need(tmp_path: Path) -> None:
    row = run_row(CASES[0], H200, found=FOUND | {"retries": 3}, machine=MACHINE)
    assert (row["peak_mem_gib"], row["mem_kind"]) == ("20.000", "max_memory_allocated GiB")
    assert "alloc_retries=3" in str(row["notes"])


def test_what_is_done_is_known_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        table = Table(tmp_path / "runs.csv", like="runs.csv")
        failures = Failures(tmp_path / "failed.jsonl")
    table.add(run_row(CASES[0], H200, found=FOUND, machine=MACHINE))
    failures.add(CASES[1], {"why": "died", "log": "one\ntwo"})
    assert Table(tmp_path / "runs.csv", like="runs.csv").ids == {CASES[0].key}
    assert Failures(tmp_path / "failed.jsonl").ids == {CASES[1].key}
    with pytest.raises(KeyError, match="peak_memory"):
        table.add({"peak_memory": 1})
