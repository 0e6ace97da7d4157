"""Whoever computes which micro-batch, the step is the same; and a replica that is slow gets fewer of them."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import Trained, write_run
from ranks.settings import GLOBAL_BATCH
from ranks.sharing import train_with_shares, with_shares
from ranks.slowed import finetune_slowed
from ranks.test_faults import write_inputs
from ranks.test_low_precision import TOLERANCES, write_low
from ranks.test_resume import STOP
from ranks.test_slow_ranks import write
from toolkit.run_folder import RunFolder
from toolkit.specs.communication import CommunicationConfig

pytestmark = pytest.mark.ranks

SOAK = pytest.mark.soak
LOSS, NORM, WEIGHTS = 3e-6, 3e-6, 1e-5
SHARES = ((6, 2), (1, 7), None, (7, 1), (3, 5))
"""Of eight micro-batches of a row; they change from step to step."""


def trained(folder: Path, shares: tuple[Any, ...] = SHARES, *, ranks: int = 2) -> Trained:
    """A run, whose ranks must all tell the same."""
    first, *others = run_ranks(train_with_shares, ranks, folder, shares, timeout_s=150)
    assert all(other.steps == first.steps for other in others)
    return first


@pytest.mark.parametrize(
    "choices",
    [
        {"zero_stage": 0},
        {"zero_stage": 1},
        pytest.param({"zero_stage": 1, "offload": "optimizer"}, marks=SOAK),
        pytest.param({"zero_stage": 1, "method": "lora"}, marks=SOAK),
        pytest.param({"zero_stage": 1, "tp": 2, "cluster": "4xcpu"}, marks=SOAK),
        pytest.param({"zero_stage": 1, "sp": 2, "cluster": "4xcpu"}, marks=SOAK),
    ],
    ids=str,
)
def test_equals_one_process(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "run", untied, micro_batch=1, **choices)
    run = trained(folder, ranks=4 if "cluster" in choices else 2)
    one = reference_run(untied, method=choices.get("method", "full"))
    assert_equal(run.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(run.weights, one.model, within=WEIGHTS)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=SOAK), 1])
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=SOAK)])
def test_equals_one_process_in_low_precision(tmp_path: Path, calm: Path, precision: str, stage: int) -> None:
    folder = write_low(tmp_path / "run", calm, precision=precision, zero_stage=stage, micro_batch=1)
    assert_equal(trained(folder).steps, reference_run(calm, precision=precision).steps, **TOLERANCES[precision])


@SOAK
@pytest.mark.parametrize("stage", [0, 1])
def test_equals_equal_shares(tmp_path: Path, untied: Path, stage: int) -> None:
    """Micro-batches of two rows, which other rows share then."""
    folder = write_run(tmp_path / "run", untied, zero_stage=stage, micro_batch=2, global_batch=2 * GLOBAL_BATCH)
    unequal, equal = trained(folder), trained(folder, (None,))
    for ours, theirs in zip(unequal.steps, equal.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=LOSS)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=NORM)
        assert (ours.supervised_tokens, ours.tokens) == (theirs.supervised_tokens, theirs.tokens)
    assert all((unequal.weights[name] - weight).abs().max() <= WEIGHTS for name, weight in equal.weights.items())


@SOAK
@pytest.mark.parametrize(("saved", "goes_on"), [(SHARES, (None,)), ((None,), SHARES), (SHARES, ((2, 6), (7, 1)))])
def test_a_checkpoint_knows_nothing_of_shares(tmp_path: Path, untied: Path, saved: Any, goes_on: Any) -> None:
    folder, store = write_run(tmp_path / "run", untied, zero_stage=1, micro_batch=1), tmp_path / "store"
    run_ranks(with_shares, 2, folder, saved, first_half, store, STOP, False, timeout_s=120)
    half, _ = run_ranks(with_shares, 2, folder, goes_on, second_half, store, timeout_s=120)
    one = reference_run(untied)
    assert_equal(half.steps, one.steps[STOP:], loss=LOSS, norm=NORM)
    assert_same_weights(half.weights, one.model, within=WEIGHTS)


@SOAK
def test_goes_with_compressed_gradients(tmp_path: Path, untied: Path) -> None:
    config = CommunicationConfig(compression="fp16")
    run = trained(write_run(tmp_path / "run", untied, zero_stage=0, micro_batch=1, communication=config))
    assert_equal(run.steps, reference_run(untied).steps, loss=2e-3, norm=2e-3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def slowed(folder: Path, inputs: Path, way: str, *, balance: bool, steps: int, **choices: Any) -> RunFolder:
    """Rank 1 is slow from the first step on."""
    monitoring = {"balance": balance}
    run = write(folder, inputs, ranks=2, steps=steps, monitoring=monitoring, zero_stage=1, micro_batch=1, **choices)
    run_ranks(finetune_slowed, 2, run.path, 1, way, 0, 0.2, timeout_s=280)
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(240)
def test_a_slow_replica_gets_fewer_micro_batches(tmp_path: Path, inputs: Path) -> None:
    """Its device needs 50 ms more for each of four."""
    run = slowed(tmp_path / "run", inputs, "forward", balance=True, steps=30, global_batch=8)
    first, *later = [event for event in lines(run.events) if event["event"] == "shares"]
    assert first["step"] <= 23
    (many, few), before = first["micro_batches"], first["before"]
    assert before == [4, 4]
    assert (many + few, few < 3) == (8, True)
    assert not later
    told = lines(run.ranks)[1:]
    assert (told[0]["micro_batches"], told[-1]["micro_batches"]) == ([4, 4], [many, few])
    assert told[-1]["forward_seconds"][1] < 0.8 * told[0]["forward_seconds"][1]


@SOAK
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["forward", "stopped"])
def test_a_step_gets_shorter_and_stays_the_same(tmp_path: Path, inputs: Path, way: str) -> None:
    """A device that needs 25 ms more for each micro-batch; a rank that half of the time does not run."""
    runs = {
        balance: slowed(tmp_path / str(balance), inputs, way, balance=balance, steps=80, global_batch=16, seq_len=256)
        for balance in (False, True)
    }
    steps = {balance: lines(run.telemetry) for balance, run in runs.items()}
    seconds = {one: statistics.median(line["step_seconds"] for line in each[40:]) for one, each in steps.items()}
    dealt = [event["micro_batches"] for event in lines(runs[True].events) if event["event"] == "shares"]
    pairs = list(zip(steps[True], steps[False], strict=True))
    apart = [max(abs(ours[name] / theirs[name] - 1) for ours, theirs in pairs) for name in ("loss", "grad_norm")]
    print(f"\n{way}: a step takes {seconds[True]:.3f} s, {seconds[False]:.3f} s with equal shares; {dealt}; {apart}")
    assert 1 <= len(dealt) <= 3
    assert seconds[True] < 0.9 * seconds[False]
    assert apart[0] <= LOSS
    assert apart[1] <= 1e-5
    assert not [event for event in lines(runs[True].events) if event["event"] == "straggler over"]


@SOAK
@pytest.mark.timeout(600)
def test_replicas_that_are_alike_keep_equal_shares(tmp_path: Path, inputs: Path) -> None:
    run = slowed(tmp_path / "run", inputs, "none", balance=True, steps=300, global_batch=16)
    assert [event for event in lines(run.events) if event["event"] in ("shares", "straggler")] == []
