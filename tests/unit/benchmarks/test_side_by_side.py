"""What benchmarks/trainers.py and benchmarks/packing.py count, and that padding changes nothing that is counted."""

from collections.abc import Sequence

import packing
import peers
import pytest
import torch
import trainers
from alpaca import Rates, Step
from datasets import Dataset

from toolkit.data.batches import Batch, Sample, right_padded
from toolkit.data.loader import GlobalBatches, Share

LENGTHS = (9, 3, 5, 12, 4, 7)


def samples() -> list[Sample]:
    """Rows whose first two tokens are a prompt."""
    return [(list(range(1, size + 1)), [-100, -100, *range(3, size + 1)]) for size in LENGTHS]


def padded(rows: Sequence[Sample]) -> Batch:
    return right_padded(list(rows), size=len(rows), pad=0)


def batches() -> GlobalBatches:
    ids, labels = zip(*samples(), strict=True)
    rows = Dataset.from_dict({"input_ids": ids, "labels": labels})
    return GlobalBatches(rows, Share(1, 0, 2), seed=0, pad_token_id=0)


def test_rates_are_of_all_steps_together() -> None:
    rates = Rates.of([Step(1.0, supervised=30, tokens=60, positions=100), Step(3.0, 10, 60, 140)])
    assert rates == Rates(supervised=10.0, tokens=30.0, padding=0.5, per_step=60.0)


def test_a_collator_counts_by_step() -> None:
    counting = peers.Counting(padded)
    for start in range(0, 6, 2):
        counting(samples()[start : start + 2])
    first = [(9 - 2) + (3 - 2) + (5 - 2) + (12 - 2), 9 + 3 + 5 + 12, 2 * 16 + 2 * 16]
    # The third micro-batch was fetched ahead and belongs to no step.
    assert counting.steps({"grad_accum": 2, "max_steps": 1}) == [first]


def test_rows_without_a_mask_hold_no_padding() -> None:
    counting = peers.Counting(lambda rows: {name: padded(rows)[name] for name in ("input_ids", "labels")})
    counting(samples()[:1])
    assert counting.steps({"grad_accum": 1, "max_steps": 1}) == [[7, 16, 16]]


@pytest.mark.parametrize(("steps", "expected"), [(23, (10, 20)), (10, (1, 10)), (9, (0, 1))])
def test_window_is_what_the_others_log_last(steps: int, expected: tuple[int, int]) -> None:
    assert trainers.window(steps) == expected


def test_the_first_step_is_taken_twice_and_then_the_epoch() -> None:
    plain, twice = batches(), packing.FirstTwice(batches(), width=None)
    taken = [twice.step(index) for index in range(4)]
    expected = [plain.step(index) for index in (0, 0, 1, 2)]
    for ours, theirs in zip(taken, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)
    assert [twice.row_numbers(index) for index in (0, 1, 3)] == [plain.row_numbers(index) for index in (0, 0, 2)]


def test_wider_rows_hold_the_same() -> None:
    twice = packing.FirstTwice(batches(), width=40)
    for wide, plain in zip(twice.step(0), batches().step(0), strict=True):
        width = plain["input_ids"].shape[1]
        assert all(torch.equal(wide[name][:, :width], plain[name]) for name in plain)
        assert wide["input_ids"].shape[1] == 40
        assert not wide["attention_mask"][:, width:].any()
        assert (wide["labels"][:, width:] == -100).all()
    assert twice.positions == [2 * 40]
