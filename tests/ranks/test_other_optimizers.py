"""Each optimizer, wherever an engine takes it, does what its library does to whole tensors in one process.

On the gradients that it got: a sign (lion), bf16 inside (muon) and eigenvectors (soap) make much of a rounding, so that
already one process departs from itself when its rows come in other micro-batches.
"""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from procs import run_ranks
from ranks.by_hand import optimizers_by_hand
from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.recorded import beside_the_library, recorded
from ranks.reference import Reference, reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import ALL_DECAY, types_held, write_run
from ranks.settings import LEARNING_RATES, WEIGHT_DECAY
from ranks.test_resume import STOP, assert_bit_equal, run
from toolkit.specs.optimizer import OptimizerName

pytestmark = pytest.mark.ranks

ZERO_1, ZERO_2 = {"zero_stage": 1}, {"zero_stage": 2}
WHOLE: tuple[OptimizerName, ...] = ("adafactor", "muon", "soap")
BY_NUMBER: tuple[OptimizerName, ...] = ("lion", "sgd")
SOAK = pytest.mark.soak
CASES = [
    *((name, ZERO_2) for name in (*WHOLE, *BY_NUMBER)),
    *(pytest.param(name, ZERO_1, marks=SOAK) for name in (*WHOLE, *BY_NUMBER)),
    ("lion", {"zero_stage": 3}),
    ("adafactor", {"zero_stage": 2, "precision": "bf16"}),
    ("muon", {"pp": 2}),
    *(
        pytest.param(name, choices, marks=SOAK)
        for name, choices in (
            ("sgd", {"zero_stage": 3}),
            ("lion", {"zero_stage": 2, "offload": "optimizer"}),
            ("muon", {"zero_stage": 0}),
            ("muon", {"zero_stage": 2, "cluster": "4xcpu", "micro_batch": 1}),
            ("soap", {"zero_stage": 0, "precision": "bf16"}),
            ("sgd", {"pp": 2}),
            ("lion", {"zero_stage": 0}),
            ("lion", {"pp": 2}),
            ("sgd", {"zero_stage": 0}),
            ("sgd", {"zero_stage": 2, "offload": "optimizer"}),
            ("adafactor", {"zero_stage": 0}),
            ("adafactor", {"pp": 2}),
            ("soap", {"pp": 2}),
            ("adamw_8bit", ZERO_1),
            ("adamw_8bit", ZERO_2),
        )
    ),
]


def write(folder: Path, model: Path, name: OptimizerName, **choices: Any) -> Path:
    return write_run(folder, model, optimizer=ALL_DECAY, optimizer_name=name, **choices)


@pytest.mark.parametrize(("name", "choices"), CASES, ids=str)
def test_does_what_its_library_does(tmp_path: Path, deep: Path, name: OptimizerName, choices: dict[str, Any]) -> None:
    made = recorded(write(tmp_path / "run", deep, name, **choices))
    weights = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in made.before.items()}
    groups = {key: {"params": [weight], "weight_decay": WEIGHT_DECAY} for key, weight in weights.items()}
    optimizers = optimizers_by_hand(name, groups)
    assert len(made.gradients) == len(LEARNING_RATES)
    for rate, gradients in zip(LEARNING_RATES, made.gradients, strict=True):
        for key, weight in weights.items():
            weight.grad = gradients[key]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    wrong = {key: float((weight.detach() - made.after[key]).abs().max()) for key, weight in weights.items()}
    assert all(by <= 1e-6 for by in wrong.values()), wrong
    moved = max(float((made.after[key] - made.before[key]).abs().max()) for key in wrong)
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("adafactor", ZERO_2),
        pytest.param("sgd", ZERO_1, marks=SOAK),
        pytest.param("sgd", ZERO_2, marks=SOAK),
        pytest.param("adafactor", ZERO_1, marks=SOAK),
    ],
    ids=str,
)
def test_equals_one_process(tmp_path: Path, deep: Path, name: OptimizerName, choices: dict[str, Any]) -> None:
    here = trained(write(tmp_path / "run", deep, name, **choices))
    one = reference_run(deep, optimizer=name)
    assert_equal(here.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(here.weights, one.model, within=1e-5)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("adamw_8bit", ZERO_2),
        pytest.param("adamw_8bit", ZERO_1, marks=SOAK),
        pytest.param("muon", ZERO_2, marks=SOAK),
        pytest.param("muon", ZERO_1, marks=SOAK),
        pytest.param("soap", ZERO_1, marks=SOAK),
        pytest.param("soap", ZERO_2, marks=SOAK),
    ],
    ids=str,
)
def test_departs_no_further_than_one_process_does(
    tmp_path: Path, deep: Path, name: OptimizerName, choices: dict[str, Any]
) -> None:
    here = trained(write(tmp_path / "run", deep, name, **choices))
    one = reference_run(deep, optimizer=name)
    alone = max(_furthest(reference_run(deep, optimizer=name, in_parts=parts), one) for parts in (2, 4, 8))
    departed = max(abs(ours.loss - theirs.loss) for ours, theirs in zip(here.steps, one.steps, strict=True))
    assert departed <= 3 * alone, (departed, alone)


@pytest.mark.soak
@pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 0},
        ZERO_1,
        ZERO_2,
        {"zero_stage": 3},
        {"zero_stage": 2, "tp": 2},
        {"zero_stage": 3, "tp": 2},
        {"zero_stage": 2, "sp": 2},
        {"pp": 2},
    ],
    ids=str,
)
def test_8_bit_states_in_every_layout(tmp_path: Path, deep: Path, choices: dict[str, Any]) -> None:
    """A layout decides which numbers share a scale: its buffers are as the library updates them, the loss is close."""
    folder = write(tmp_path / "run", deep, "adamw_8bit", **choices)
    ranks = run_ranks(beside_the_library, 2, folder, bitsandbytes.optim.AdamW8bit, timeout_s=120)
    assert max(furthest for furthest, _ in ranks) <= 1e-6
    one = reference_run(deep, optimizer="adamw_8bit")
    departed = max(abs(ours.loss - theirs.loss) for ours, theirs in zip(ranks[0][1], one.steps, strict=True))
    assert departed <= 1e-3


def _furthest(other: Reference, one: Reference) -> float:
    return max(abs(ours.loss - theirs.loss) for ours, theirs in zip(other.steps, one.steps, strict=True))


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        pytest.param("adamw_8bit", ZERO_2, marks=SOAK),
        pytest.param("adamw_8bit", {"zero_stage": 3}, marks=SOAK),
        pytest.param("lion", {"zero_stage": 3}, marks=SOAK),
        pytest.param("sgd", ZERO_1, marks=SOAK),
        ("adafactor", ZERO_2),
        pytest.param("muon", ZERO_2, marks=SOAK),
        ("muon", {"pp": 2}),
        pytest.param("soap", ZERO_1, marks=SOAK),
        ("soap", {"zero_stage": 0, "precision": "bf16"}),
    ],
    ids=str,
)
def test_goes_on_bit_for_bit(tmp_path: Path, deep: Path, name: OptimizerName, choices: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", deep, name, **choices)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


@pytest.mark.parametrize(
    ("name", "saved", "goes_on"),
    [
        ("adafactor", {"zero_stage": 2, "cluster": "4xcpu", "micro_batch": 1}, ZERO_1),
        ("sgd", {"zero_stage": 1, "tp": 2, "micro_batch": 4}, {"zero_stage": 3}),
    ],
    ids=str,
)
def test_goes_on_with_another_layout(
    tmp_path: Path, deep: Path, name: OptimizerName, saved: dict[str, Any], goes_on: dict[str, Any]
) -> None:
    run(first_half, write(tmp_path / "one", deep, name, **saved), tmp_path / "store", STOP, False)
    half = run(second_half, write(tmp_path / "two", deep, name, **goes_on), tmp_path / "store")
    one = reference_run(deep, optimizer=name)
    assert_equal(half.steps, one.steps[STOP:], loss=3e-6, norm=1e-5)
    assert_same_weights(half.weights, one.model, within=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("choices", [{"zero_stage": 0, "precision": "bf16"}, ZERO_2], ids=str)
def test_states_are_of_the_type_that_is_told(
    tmp_path: Path, deep: Path, name: OptimizerName, choices: dict[str, Any]
) -> None:
    held = run_ranks(types_held, 2, write(tmp_path / "run", deep, name, **choices))[0]
    assert held.note.endswith("optimizer's weights fp32, states of whole tensors like them")
    assert held.optimizer == {torch.float32}
