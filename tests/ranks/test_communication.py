"""Compressed gradients and local steps: what they are by their formulas, and the bytes that leave each rank."""

from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.communicating import averaged, counted_steps, gradients_like, local_by_hand
from ranks.equality import assert_equal, trained
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import write_run
from ranks.settings import GLOBAL_BATCH
from ranks.test_resume import STOP, assert_bit_equal, run
from ranks.tiny import write_model
from toolkit.specs.communication import CommunicationConfig

pytestmark = pytest.mark.ranks

SOAK = pytest.mark.soak
FP16 = CommunicationConfig(compression="fp16")
BF16 = CommunicationConfig(compression="bf16")
POWER = CommunicationConfig(compression="powersgd")
TOPK = CommunicationConfig(compression="topk")
LOCAL = CommunicationConfig(local_steps=8)
DILOCO = CommunicationConfig(local_steps=8, outer_learning_rate=0.7, outer_momentum=0.9)
SHAPES = ((40, 30), (30,), (8, 64))


def made_by_ranks(config: CommunicationConfig, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Means that two ranks come to, which must be the same on both, and the true ones; flat, of each step."""
    first, second = run_ranks(averaged, 2, config, SHAPES, steps, timeout_s=60)
    assert all(map(torch.equal, first, second))
    given = [gradients_like(SHAPES, rank=rank, steps=steps) for rank in range(2)]
    flat = [[torch.cat([one.flatten() for one in step]) for step in own] for own in given]
    return first, [(a + b) / 2 for a, b in zip(*flat, strict=True)]


@pytest.mark.parametrize(("config", "within"), [(FP16, 2**-9), (BF16, 2**-6)], ids=["fp16", "bf16"])
def test_halves_are_the_mean_rounded(config: CommunicationConfig, within: float) -> None:
    made, true = made_by_ranks(config, 2)
    assert 0 < (made[-1] - true[-1]).abs().max() <= within * true[-1].abs().max()


def test_topk_sends_the_largest_and_keeps_the_rest_for_later() -> None:
    config = CommunicationConfig(compression="topk", ratio=0.1)
    made, true = made_by_ranks(config, 60)
    count = int(len(true[0]) * config.ratio)
    assert all(count <= int((step != 0).sum()) <= 2 * count for step in made)
    # What has not been sent yet is less than what came in the last steps: nothing is lost.
    assert (sum(made) - sum(true)).norm() < 0.35 * sum(true).norm()


def test_powersgd_learns_what_stays_the_same() -> None:
    made, true = made_by_ranks(POWER, 60)
    rows, columns = SHAPES[0]
    matrices = [step[: rows * columns].view(rows, columns) for step in made]
    assert all(torch.linalg.matrix_rank(matrix, rtol=1e-4) <= POWER.rank for matrix in matrices)
    vector = slice(rows * columns, rows * columns + SHAPES[1][0])  # is sent as it is
    assert all(torch.allclose(step[vector], wanted[vector], atol=1e-4) for step, wanted in zip(made, true, strict=True))
    assert (sum(made) - sum(true)).norm() < 0.35 * sum(true).norm()


@SOAK
@pytest.mark.parametrize("config", [FP16, BF16], ids=lambda config: config.compression)
def test_halves_train_as_one_process_does(tmp_path: Path, calm: Path, config: CommunicationConfig) -> None:
    here = trained(write_run(tmp_path / "run", calm, zero_stage=0, communication=config))
    one = reference_run(calm)
    within = 2e-3 if config.compression == "fp16" else 1e-2
    assert_equal(here.steps, one.steps, loss=within, norm=within)


@pytest.mark.parametrize("config", [pytest.param(LOCAL, id="local", marks=SOAK), pytest.param(DILOCO, id="diloco")])
def test_local_steps_are_those_of_two_replicas(tmp_path: Path, deep: Path, config: CommunicationConfig) -> None:
    folder = write_run(tmp_path / "run", deep, zero_stage=0, micro_batch=GLOBAL_BATCH // 2, communication=config)
    here = trained(folder)
    losses, weights = local_by_hand(
        deep,
        local_steps=config.local_steps,
        outer_rate=config.outer_learning_rate,
        outer_momentum=config.outer_momentum,
    )
    assert [step.loss for step in here.steps] == pytest.approx(losses, abs=3e-6)
    assert here.weights.keys() == weights.keys()
    assert all((here.weights[name] - weight).abs().max() <= 1e-5 for name, weight in weights.items())


@pytest.fixture(scope="module")
def wide_matrices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices as wide as those of a small real model."""
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    return write_model(tmp_path_factory.mktemp("models") / "wide-matrices", **sizes)


def test_bytes_that_leave_a_rank(tmp_path: Path, wide_matrices: Path) -> None:
    written = {}
    for name, config in {
        "plain": CommunicationConfig(),
        "fp16": FP16,
        "powersgd": POWER,
        "topk": TOPK,
        "local": LOCAL,
    }.items():
        folder = write_run(tmp_path / name, wide_matrices, zero_stage=0, communication=config)
        steps = run_ranks(counted_steps, 2, folder, 17, timeout_s=120)[0][1:]  # the first one makes connections
        written[name] = sum(count for _, count in steps) / len(steps)
        if name != "plain":
            told = sum(result.sent_bytes for result, _ in steps) / len(steps)
            # The rest are sums of losses and counts, and the frames of messages.
            assert told <= written[name] <= 1.02 * told + 2000, name
    assert written["plain"] / written["fp16"] == pytest.approx(2, rel=0.02)
    assert written["plain"] / written["local"] == pytest.approx(8, rel=0.05)
    assert written["plain"] / written["powersgd"] >= 10
    assert written["plain"] / written["topk"] >= 10


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TOPK, id="topk"),
        pytest.param(POWER, id="powersgd", marks=SOAK),
        pytest.param(LOCAL, id="local", marks=SOAK),
        pytest.param(DILOCO, id="diloco"),
    ],
)
def test_goes_on_bit_for_bit(tmp_path: Path, deep: Path, config: CommunicationConfig) -> None:
    folder = write_run(tmp_path / "run", deep, zero_stage=0, communication=config)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


@SOAK
def test_local_steps_in_bf16_end_in_the_same_weights_everywhere(tmp_path: Path, calm: Path) -> None:
    settings: dict[str, Any] = {"zero_stage": 0, "precision": "bf16", "communication": LOCAL}
    here = trained(write_run(tmp_path / "run", calm, **settings))
    assert here.steps[-1].loss < here.steps[0].loss - 0.3
