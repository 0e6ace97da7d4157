"""Which faults are a lack of memory, and what is said about it."""

import shlex
from pathlib import Path

import pytest
import torch

import toolkit
from toolkit.errors import OutOfMemory
from toolkit.planner.plan import Plan
from toolkit.training.out_of_memory import memory_fault


@pytest.fixture(scope="module")
def plan() -> Plan:
    return toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64, engine="zero")


def test_a_tensor_that_no_machine_holds(plan: Plan) -> None:
    with pytest.raises(OutOfMemory) as caught, memory_fault(plan, Path("run"), rank=3, place=lambda: "in a test"):
        torch.ones(1 << 55)
    cause, expected, less = str(caught.value).splitlines()
    assert cause.startswith("rank 3 on ")
    assert "ran out of memory in a test: " in cause
    assert "can't allocate memory" in cause
    assert "The plan expects " in expected
    name, size = plan.memory.largest_terms()[0]
    assert f"most of it {name} " in expected
    assert size == max(plan.memory.weights_bytes, plan.memory.optimizer_bytes, plan.memory.activations_bytes, size)
    assert caught.value.exit_code == 77
    assert "toolkit plan" in less


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2 GiB", "cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"])
def test_what_libraries_say(plan: Plan, text: str) -> None:
    with pytest.raises(OutOfMemory), memory_fault(plan, Path("run"), rank=0, place=str):
        raise torch.OutOfMemoryError(text)


def test_other_faults_pass(plan: Plan) -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_fault(plan, Path("run"), rank=0, place=str):
        raise RuntimeError("shapes")


def test_what_is_proposed_takes_less(plan: Plan) -> None:
    """The command in the message, planned as it is written."""
    with pytest.raises(OutOfMemory) as caught, memory_fault(plan, Path("run"), rank=0, place=str):
        raise MemoryError
    command = shlex.split(str(caught.value).split("`")[1])
    given = dict(zip(command[2::2], command[3::2], strict=False))
    again = toolkit.plan(
        plan.model,
        plan.cluster,
        seq_len=4096,
        global_batch=64,
        zero_stage=int(given["--zero"]),
        micro_batch=int(given["--micro-batch"]),
        offload=given["--offload"],
        activation_checkpointing=given["--checkpointing"],
        tp=int(given["--tp"]),
    )
    assert again.memory.total_bytes < 0.9 * plan.memory.total_bytes
    assert given["--engine"] == again.strategy.engine == "zero"
