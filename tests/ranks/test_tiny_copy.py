"""`--preflight full`: a tiny copy of a run agrees with one process and plain transformers, and faults are named."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks import planted
from ranks.runs import edited_ds_config, write_run
from toolkit.preflight.outcome import Outcome
from toolkit.preflight.parity import compare
from toolkit.specs.clipping import ClippingConfig

pytestmark = pytest.mark.ranks
SOAK = pytest.mark.soak
ENGINE = "toolkit.engines.zero.engine."


def copied(run: Path, ranks: int, *plants: tuple[str, Any]) -> Outcome:
    divided = run_ranks(planted.copy_of, ranks, run, *plants, timeout_s=90)
    (single,) = run_ranks(planted.copy_alone, 1, run, timeout_s=90)
    assert not any(divided[1:])
    return compare(divided[0], single)


@pytest.mark.parametrize(
    ("model", "ranks", "choices"),
    [
        ("untied", 2, {"zero_stage": 3, "precision": "bf16", "method": "lora"}),
        ("deep", 4, {"pp": 2, "tp": 2}),
        ("tied", 2, {"engine": "mcore", "tp": 2}),
        pytest.param("untied", 2, {"zero_stage": 2, "offload": "optimizer"}, marks=SOAK),
        pytest.param("untied", 2, {"zero_stage": 2, "optimizer_name": "muon"}, marks=SOAK),
        pytest.param("untied", 2, {"zero_stage": 1, "precision": "bf16", "mixed": "none"}, marks=SOAK),
        pytest.param("tied", 2, {"zero_stage": 2, "tp": 2, "clipping": ClippingConfig(kind="agc")}, marks=SOAK),
        pytest.param("untied", 2, {"zero_stage": 3, "sp": 2}, marks=SOAK),
        pytest.param("deep_tied", 2, {"pp": 2, "activation_checkpointing": "full"}, marks=SOAK),
        pytest.param("even", 2, {"engine": "mcore", "pp": 2, "vpp": 2}, marks=SOAK),
        pytest.param("stretched", 2, {"engine": "mcore", "cp": 2}, marks=SOAK),
    ],
    ids=str,
)
def test_a_copy_agrees(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, ranks: int, choices: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "run", request.getfixturevalue(model), cluster=f"{ranks}xcpu", **choices)
    found = copied(run, ranks)
    assert found.state == "passed", found.fault
    assert found.said.startswith("3 steps in this layout, in one process and in plain transformers agree")


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        ((f"{ENGINE}ZeroEngine._loss_factor", planted.of_own_labels), "gradient norm of step 1 is"),
        ((f"{ENGINE}set_learning_rate", planted.twice_the_rate), "loss of step 2 is"),
    ],
    ids=["mean of means", "rate"],
)
def test_faults_of_an_engine_are_named(tmp_path: Path, untied: Path, plant: tuple[str, Any], fault: str) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=2)
    found = copied(run, 2, plant)
    assert found.state == "failed"
    assert found.said.startswith(fault)


def test_what_was_edited_by_hand_is_tried(tmp_path: Path, untied: Path) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=2)
    usual = copied(run, 2)
    with edited_ds_config(run) as config:
        config["gradient_clipping"] = 0.01
        config["zero_optimization"]["stage"] = 3
    edited = copied(run, 2)
    assert (usual.state, edited.state) == ("passed", "passed")
    assert usual.said != edited.said


@SOAK
def test_the_whole_of_it(tmp_path: Path, untied: Path) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=2)
    words = [sys.executable, "-m", "toolkit", "launch", str(run), "--preflight", "full"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ))
    # The recipe of these tests names no samples: the copy needs none, and the run stops behind it.
    assert "recipe.yaml names no samples" in ended.stderr
