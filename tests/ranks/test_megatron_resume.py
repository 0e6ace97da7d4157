"""Nothing is lost on megatron-core: a run goes on in any of its layouts, and in any of another engine's.

Measured: losses of the second half within 8e-7 of one process that was not interrupted.
"""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights
from ranks.on_megatron import overflow_and_go_on, steps_of_the_optimizer
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half, there_and_back
from ranks.runs import write_run
from ranks.test_megatron_parity import WEIGHTS, write
from ranks.test_resume import LOSS, NORM, STOP, assert_bit_equal, run

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, even: Path) -> Path:
    """A checkpoint of tp2 with sequence parallelism, after half of the steps."""
    folder = tmp_path_factory.mktemp("stored")
    run(first_half, write(folder / "run", even, "tp2-sequence"), folder / "store", STOP, False)
    return folder / "store"


def assert_goes_on(folder: Path, store: Path, model: Path) -> None:
    half, one = run(second_half, folder, store), reference_run(model)
    assert_equal(half.steps, one.steps[STOP:], loss=LOSS, norm=NORM)
    assert_same_weights(half.weights, one.model, within=WEIGHTS)


@pytest.mark.parametrize(
    "layout",
    [
        "one",
        "pp2",
        "pp2-vpp2",
        "dp2",
        "tp2-pp2",
        *[pytest.param(name, marks=pytest.mark.soak) for name in ("cp2", "pp4", "tp2-dp2", "pp2-uneven")],
    ],
)
def test_tp2_goes_on_elsewhere(tmp_path: Path, even: Path, stored: Path, layout: str) -> None:
    assert_goes_on(write(tmp_path / "run", even, layout), stored, even)


@pytest.mark.soak
def test_goes_on_with_zero(tmp_path: Path, even: Path, stored: Path) -> None:
    assert_goes_on(write_run(tmp_path / "run", even, zero_stage=3), stored, even)


def test_zero_goes_on_with_megatron(tmp_path: Path, even: Path) -> None:
    run(first_half, write_run(tmp_path / "one", even, zero_stage=2), tmp_path / "store", STOP, False)
    assert_goes_on(write(tmp_path / "two", even, "tp2-pp2"), tmp_path / "store", even)


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        ("tp2-dp2", {}),
        ("pp2-vpp2", {"precision": "bf16"}),
        pytest.param("tp2-sequence", {"method": "lora"}, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_goes_on_bit_for_bit(tmp_path: Path, even: Path, layout: str, more: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", even, layout, **more)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


def test_goes_back_without_a_new_start(tmp_path: Path, even: Path) -> None:
    folder = write(tmp_path / "run", even, "dp2")
    whole = run(first_half, folder, tmp_path / "other", STOP, True)
    assert_bit_equal(run(there_and_back, folder, tmp_path / "store", STOP), whole)


def test_each_tensor_counts_its_own_steps(tmp_path: Path, even: Path, stored: Path) -> None:
    """Megatron's own loader gives all of them one counter, which each then advances."""
    counted = run_ranks(steps_of_the_optimizer, 2, write(tmp_path / "run", even, "dp2"), stored)
    names = set(dict(AutoModelForCausalLM.from_pretrained(even).named_parameters()))
    assert all(len(counts) > 1 and set(counts) == {STOP + 1.0} for counts, _ in counted)
    assert set.union(*(names_of for _, names_of in counted)) == names


def test_an_overflow_leaves_no_trace_and_its_scale_goes_on(tmp_path: Path, calm: Path) -> None:
    folder = write(tmp_path / "run", calm, "dp2", precision="fp16")
    for seen in run_ranks(overflow_and_go_on, 2, folder, tmp_path / "store"):
        assert len(seen.scales) > 3
        assert seen.scales == sorted(seen.scales, reverse=True)
        assert len(set(seen.held_out)) == 1, "a step that was left out changed the weights"
        assert seen.counters_after == seen.counters_before
        assert seen.counters_before["loss_scale"] < seen.scales[0]
