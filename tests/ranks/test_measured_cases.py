"""Cases of benchmarks/one_gpu_runs.py that differ in their loss alone measure the same, through the same engine."""

import dataclasses
from typing import Any

import pytest

from one_gpu.cases import REHEARSAL, Case
from one_gpu.measure import measure
from procs import run_ranks
from toolkit.specs.cluster import ClusterSpec

pytestmark = pytest.mark.ranks

CHUNKED = [case for case in REHEARSAL if case.chunked_loss]


def measured(case: Case) -> dict[str, Any]:
    """In a process of its own."""
    return measure(case, ClusterSpec.resolve("1xcpu"))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.soak] if number else []) for number, case in enumerate(CHUNKED)],
    ids=lambda case: case.key,
)
def test_a_chunked_loss_is_the_loss(case: Case) -> None:
    whole = dataclasses.replace(case, chunked_loss=False)
    (chunked,), (plain,) = (run_ranks(measured, 1, each, timeout_s=120) for each in (case, whole))
    assert chunked["status"] == plain["status"] == "ok"
    assert chunked["loss"] == pytest.approx(plain["loss"], abs=1e-5)
