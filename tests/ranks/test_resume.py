"""Nothing is lost: a run that goes on from a checkpoint ends where the uninterrupted one does, whatever its layout.

On the same layout bit for bit; on another within the tolerance of the layouts themselves.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights
from ranks.reference import reference_run
from ranks.resuming import Half, first_half, second_half, there_and_back
from ranks.runs import write_run
from ranks.settings import GLOBAL_BATCH
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

STOP = 10
LOSS, NORM, WEIGHTS = 2e-6, 1e-5, 1e-5
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero1-dp1": {"cluster": "1xcpu", "zero_stage": 1},
    "zero0-dp2": {"cluster": "2xcpu", "zero_stage": 0},
    "zero1-dp2": {"cluster": "2xcpu", "zero_stage": 1},
    "zero2-dp2": {"cluster": "2xcpu", "zero_stage": 2},
    "zero3-dp2": {"cluster": "2xcpu", "zero_stage": 3},
    "zero3-dp4": {"cluster": "4xcpu", "zero_stage": 3},
    "tp2-zero1": {"cluster": "2xcpu", "zero_stage": 1, "tp": 2},
    "tp2-zero3": {"cluster": "2xcpu", "zero_stage": 3, "tp": 2},
    "sp2-zero2": {"cluster": "2xcpu", "zero_stage": 2, "sp": 2},
    "pp2": {"cluster": "2xcpu", "pp": 2},
    "pp2-dp2": {"cluster": "4xcpu", "pp": 2},
    "pp2-tp2": {"cluster": "4xcpu", "pp": 2, "tp": 2},
    "mcore-cp2": {"cluster": "2xcpu", "engine": "mcore", "cp": 2},
    "mcore-tp2-pp2": {"cluster": "4xcpu", "engine": "mcore", "tp": 2, "pp": 2},
}
# Each layout saves or goes on at least once; what is in between is the same for all, and `make soak` tries all pairs.
PAIRS = [
    ("zero1-dp1", "zero2-dp2"),
    pytest.param("zero3-dp2", "tp2-zero3", marks=pytest.mark.soak),
    pytest.param("pp2", "zero3-dp4", marks=pytest.mark.soak),
    ("tp2-zero1", "pp2-tp2"),
    ("sp2-zero2", "pp2-dp2"),
    ("pp2-tp2", "zero1-dp2"),
    pytest.param("pp2-dp2", "zero0-dp2", marks=pytest.mark.soak),
    ("zero0-dp2", "zero1-dp1"),
]


def write(folder: Path, model: Path, **choices: Any) -> Path:
    ranks = int(choices.get("cluster", "2xcpu").partition("x")[0])
    replicas = ranks // math.prod(choices.get(degree, 1) for degree in ("tp", "sp", "pp", "cp"))
    return write_run(folder, model, micro_batch=GLOBAL_BATCH // replicas // 2, **choices)


def run(body: Any, folder: Path, *args: object) -> Half:
    half: Half = run_ranks(body, Plan.load(RunFolder(folder).plan).world_size, folder, *args, timeout_s=120)[0]
    return half


def assert_bit_equal(half: Half, whole: Half) -> None:
    # repr: a NaN equals itself there, and -0.0 is not 0.0.
    assert [repr(step) for step in half.steps] == [repr(step) for step in whole.steps[-len(half.steps) :]]
    assert half.weights.keys() == whole.weights.keys()
    assert all(torch.equal(half.weights[name], weight) for name, weight in whole.weights.items())


@pytest.mark.parametrize("layout", ["zero0-dp2", "zero2-dp2", "zero3-dp2", "tp2-zero1", "pp2-tp2"])
def test_goes_on_bit_for_bit(tmp_path: Path, deep_tied: Path, layout: str) -> None:
    folder = write(tmp_path / "run", deep_tied, **LAYOUTS[layout])
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


@pytest.mark.parametrize(("saved", "goes_on"), PAIRS)
def test_goes_on_with_another_layout(tmp_path: Path, deep_tied: Path, saved: str, goes_on: str) -> None:
    run(first_half, write(tmp_path / "one", deep_tied, **LAYOUTS[saved]), tmp_path / "store", STOP, False)
    half = run(second_half, write(tmp_path / "two", deep_tied, **LAYOUTS[goes_on]), tmp_path / "store")
    one = reference_run(deep_tied)
    assert_equal(half.steps, one.steps[STOP:], loss=LOSS, norm=NORM)
    assert_same_weights(half.weights, one.model, within=WEIGHTS)


@pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 0, "precision": "bf16"},
        {"zero_stage": 1, "precision": "fp16"},
        {"zero_stage": 2, "precision": "fp16", "tp": 2},
        {"zero_stage": 2, "offload": "optimizer"},
        pytest.param({"zero_stage": 3, "offload": "all"}, marks=pytest.mark.soak),
        pytest.param({"zero_stage": 3, "method": "lora"}, marks=pytest.mark.soak),
        {"pp": 2, "method": "lora"},
    ],
    ids=lambda choices: "-".join(f"{name}={value}" for name, value in choices.items()),
)
def test_formats_methods_and_offload_go_on_bit_for_bit(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", calm, **choices)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


@pytest.mark.parametrize("choices", [{"zero_stage": 0}, {"zero_stage": 3}, {"pp": 2}], ids=str)
def test_a_run_can_go_back_without_a_new_start(tmp_path: Path, calm: Path, choices: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", calm, **choices)
    whole = run(first_half, folder, tmp_path / "other", STOP, True)
    assert_bit_equal(run(there_and_back, folder, tmp_path / "store", STOP), whole)
