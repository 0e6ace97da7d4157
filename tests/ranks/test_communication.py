"""Compressed gradients and local steps: what they are by their formulas, and the bytes that leave each rank."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from procs import run_ranks
from ranks.communicating import (
    averaged,
    counted_steps,
    gradients_like,
    local_by_hand,
    train_with_evaluations,
    waiting_after,
    weights_at_the_end,
)
from ranks.equality import assert_equal, trained
from ranks.reference import reference_run
from ranks.resuming import Half, begin_outer_steps, first_half, second_half, there_and_back
from ranks.runs import edited_ds_config, write_run
from ranks.settings import GLOBAL_BATCH, LEARNING_RATES
from ranks.test_bad_steps import BAD
from ranks.test_resume import STOP, assert_bit_equal, run
from ranks.tiny import write_model
from ranks.wrong import train_leaving_out, train_through_a_bad_step
from toolkit.specs.communication import CommunicationConfig

pytestmark = pytest.mark.ranks

SOAK = pytest.mark.soak
FP16 = CommunicationConfig(compression="fp16")
BF16 = CommunicationConfig(compression="bf16")
POWER = CommunicationConfig(compression="powersgd", rank=4)
BY_SIZE = CommunicationConfig(compression="powersgd")
TOPK = CommunicationConfig(compression="topk")
LATE_TOPK = CommunicationConfig(compression="topk", full_steps=STOP + 3)
LOCAL = CommunicationConfig(local_steps=8)
DILOCO = CommunicationConfig(local_steps=8, outer_learning_rate=0.7, outer_momentum=0.9)
BETWEEN = 2.6
"""In many steps the norm of one replica of `deep` is above it, and that of the other below."""
SHAPES = ((40, 30), (30,), (8, 64))


def true_means(steps: int) -> list[torch.Tensor]:
    """Of two ranks' gradients, flat, of each step."""
    given = [gradients_like(SHAPES, rank=rank, steps=steps) for rank in range(2)]
    flat = [[torch.cat([one.flatten() for one in step]) for step in own] for own in given]
    return [(a + b) / 2 for a, b in zip(*flat, strict=True)]


def made_by_ranks(config: CommunicationConfig, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Means that two ranks come to, which must be the same on both, and the true ones; flat, of each step."""
    first, second = run_ranks(averaged, 2, config, SHAPES, range(steps), timeout_s=60)
    assert all(map(torch.equal, first.made, second.made))
    return first.made, true_means(steps)


@pytest.mark.parametrize(("config", "within"), [(FP16, 2**-9), (BF16, 2**-6)], ids=["fp16", "bf16"])
def test_halves_are_the_mean_rounded(config: CommunicationConfig, within: float) -> None:
    made, true = made_by_ranks(config, 2)
    assert 0 < (made[-1] - true[-1]).abs().max() <= within * true[-1].abs().max()


@pytest.mark.parametrize("size", [1e-9, 1e-7, pytest.param(1e-30, marks=SOAK), pytest.param(1e6, marks=SOAK)])
def test_fp16_has_room_for_gradients_of_any_size(size: float) -> None:
    first, second = run_ranks(averaged, 2, FP16, SHAPES, range(2), size, timeout_s=60)
    (true,) = true_means(2)[1:]
    assert torch.equal(first.made[-1], second.made[-1])
    # Each rank's number is rounded to 11 bits, and so is their mean; what is lost beside the largest is less.
    error = (first.made[-1].double() / size - true).abs()
    assert error.max() <= 2**-9 * true.abs().max()
    assert error.norm() <= 2**-11 * true.norm()


@pytest.mark.parametrize("config", [TOPK, pytest.param(POWER, marks=SOAK)], ids=lambda config: config.compression)
def test_the_first_steps_send_whole_gradients(config: CommunicationConfig) -> None:
    late = config.model_copy(update={"full_steps": 4})
    first, second = run_ranks(averaged, 2, late, SHAPES, range(6), timeout_s=60)
    assert all(map(torch.equal, first.made, second.made))
    true = true_means(6)
    assert all(torch.allclose(made, wanted, atol=1e-6) for made, wanted in zip(first.made[:4], true[:4], strict=True))
    # Then nothing waits from before: it goes on as ranks do that begin with that step.
    begun = run_ranks(averaged, 2, config, SHAPES, range(4, 6), timeout_s=60)[0]
    assert all(map(torch.equal, first.made[4:], begun.made))
    # 2 (r-1)/r x 4 bytes a number.
    assert first.sent_bytes == [4.0 * len(true[0])] * 4 + begun.sent_bytes


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


def test_what_waits_does_not_pile_up() -> None:
    """With torch's feedback 7 gradients wait after 100 steps, 15 after 500: what tells the ranks apart stays."""
    for early, late in run_ranks(waiting_after, 2, (60, 50), (100, 500), timeout_s=60):
        assert 2 < early < 4
        assert 2 < late < 4


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
    with edited_ds_config(folder) as content:
        content["gradient_clipping"] = BETWEEN
    here = trained(folder)
    one = local_by_hand(deep, config, clip=BETWEEN)
    assert [step.loss for step in here.steps] == pytest.approx(one.losses, abs=3e-6)
    assert [step.clipped_norm for step in here.steps] == pytest.approx(one.clipped_norms, rel=1e-4)
    assert_near(here.weights, one.weights)


def assert_near(weights: dict[str, torch.Tensor], by_hand: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == by_hand.keys()
    assert all((weights[name] - weight).abs().max() <= 1e-5 for name, weight in by_hand.items())


@SOAK
@pytest.mark.parametrize("config", [LOCAL, DILOCO], ids=["local", "diloco"])
def test_an_evaluation_ends_the_round(tmp_path: Path, deep: Path, config: CommunicationConfig) -> None:
    """After 5 of 8 steps, and at the end of a round; what the first one sends is told with the step after it."""
    after = (5, 13)
    folder = write_run(tmp_path / "run", deep, zero_stage=0, micro_batch=GLOBAL_BATCH // 2, communication=config)
    here, other = run_ranks(train_with_evaluations, 2, folder, after, timeout_s=120)
    one = local_by_hand(deep, config, interrupted_after=after)
    assert here.steps == other.steps
    assert here.held_out == other.held_out == pytest.approx(one.held_out, abs=3e-6)
    assert [step.loss for step in here.steps] == pytest.approx(one.losses, abs=3e-6)
    assert_near(here.weights, one.weights)
    numbers = sum(weight.numel() for weight in one.weights.values())
    # Rounds end after 5, 13 and, with the run, 20 steps.
    assert [step.sent_bytes for step in here.steps] == [4.0 * numbers * (number in (6, 13)) for number in range(1, 21)]


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
        "powersgd": BY_SIZE,
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
    ("config", "body"),
    [
        pytest.param(LATE_TOPK, second_half, id="topk"),
        pytest.param(TOPK, there_and_back, id="topk-back"),
        pytest.param(POWER, second_half, id="powersgd", marks=SOAK),
        pytest.param(POWER, there_and_back, id="powersgd-back", marks=SOAK),
        pytest.param(LOCAL, second_half, id="local", marks=SOAK),
        pytest.param(LOCAL, there_and_back, id="local-back", marks=SOAK),
        pytest.param(DILOCO, second_half, id="diloco"),
        pytest.param(DILOCO, there_and_back, id="diloco-back", marks=SOAK),
    ],
)
def test_goes_on_bit_for_bit(tmp_path: Path, deep: Path, config: CommunicationConfig, body: Any) -> None:
    """In new processes, and in the same after three more steps that come to nothing."""
    folder = write_run(tmp_path / "run", deep, zero_stage=0, communication=config)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    half = run(body, folder, tmp_path / "store", *([STOP] if body is there_and_back else []))
    after_stop = replace(half, steps=half.steps[STOP - len(LEARNING_RATES) :])
    assert_bit_equal(without_bytes_of_saving(after_stop), without_bytes_of_saving(whole))


def without_bytes_of_saving(half: Half) -> Half:
    """The step after a checkpoint tells what that has sent too, in the process that has made it."""
    first = STOP - len(LEARNING_RATES)
    steps = [*half.steps[:first], replace(half.steps[first], sent_bytes=None), *half.steps[first + 1 :]]
    return replace(half, steps=steps)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TOPK, id="topk"),
        pytest.param(POWER.model_copy(update={"full_steps": BAD + 2}), id="powersgd", marks=SOAK),
        pytest.param(POWER, id="powersgd-at-once", marks=SOAK),
        pytest.param(LOCAL, id="local", marks=SOAK),
    ],
)
def test_a_bad_step_leaves_nothing_behind(tmp_path: Path, calm: Path, config: CommunicationConfig) -> None:
    """A run with it, whose states are read before and after, goes on as one that never saw it."""
    folder = write_run(tmp_path / "run", calm, zero_stage=0, communication=config)
    told = run_ranks(train_through_a_bad_step, 2, folder, BAD)
    without = run_ranks(train_leaving_out, 2, folder, BAD)[0]
    for results, untouched in told:
        assert untouched
        assert [index for index, step in enumerate(results) if step.skipped] == [BAD]
        assert not math.isfinite(results[BAD].grad_norm)
        assert [repr(step) for index, step in enumerate(results) if index != BAD] == [repr(step) for step in without]
    assert all(math.isfinite(step.loss) and math.isfinite(step.grad_norm) for step in without)


def test_outer_steps_may_begin_with_a_checkpoint(tmp_path: Path, deep: Path) -> None:
    folders = {
        config: write_run(tmp_path / f"{config.outer_momentum}", deep, zero_stage=0, communication=config)
        for config in (LOCAL, DILOCO)
    }
    run(first_half, folders[LOCAL], tmp_path / "store", STOP, False)
    begun, other = run_ranks(begin_outer_steps, 2, folders[DILOCO], tmp_path / "store", STOP, timeout_s=120)
    assert "outer momentum: the checkpoint holds none, it begins at zeros" in begun.told
    assert "outer momentum" not in other.told
    assert begun.largest == 0
    assert len(begun.steps) == len(LEARNING_RATES) - STOP
    assert all(math.isfinite(step.loss) for step in begun.steps)


@SOAK
def test_outer_steps_may_end_with_a_checkpoint(tmp_path: Path, deep: Path) -> None:
    diloco = write_run(tmp_path / "diloco", deep, zero_stage=0, communication=DILOCO)
    whole = run(first_half, diloco, tmp_path / "store", STOP, True)
    for name, choices in {"local": {"zero_stage": 0, "communication": LOCAL}, "zero2": {"zero_stage": 2}}.items():
        half = run(second_half, write_run(tmp_path / name, deep, **choices), tmp_path / "store")
        # The first step is from the same weights.
        assert half.steps[0].loss == pytest.approx(whole.steps[STOP].loss, abs=2e-6)
        assert all(math.isfinite(step.loss) for step in half.steps)


@SOAK
def test_local_steps_in_bf16_end_in_the_same_weights_everywhere(tmp_path: Path, calm: Path) -> None:
    settings: dict[str, Any] = {"zero_stage": 0, "precision": "bf16", "communication": LOCAL}
    for steps, digests in run_ranks(weights_at_the_end, 2, write_run(tmp_path / "run", calm, **settings)):
        assert steps[-1].loss < steps[0].loss - 0.3
        assert digests[0] == digests[1]
