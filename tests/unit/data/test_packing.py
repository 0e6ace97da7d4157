"""Packing: every row once, none too full, next to no padding, and the same whatever the layout."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.packing import Packs, pack, token_counts

PAD, IGNORED = 0, -100


def members(packs: Packs) -> list[list[int]]:
    return [packs.of(number) for number in range(len(packs))]


@given(lengths=st.lists(st.integers(1, 64), max_size=200), capacity=st.integers(64, 200))
def test_every_row_once_and_none_too_full(lengths: list[int], capacity: int) -> None:
    packs = members(pack(lengths, capacity=capacity))
    assert sorted(row for each in packs for row in each) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in each) <= capacity for each in packs)


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=200), capacity=st.integers(64, 200))
def test_no_row_fits_into_an_earlier_pack(lengths: list[int], capacity: int) -> None:
    """What fits nowhere opens a pack, so any two packs hold more than one takes, and at most one is half empty."""
    loads = sorted(sum(lengths[row] for row in each) for each in members(pack(lengths, capacity=capacity)))
    assert all(one + two > capacity for one, two in pairwise(loads))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 5, 5], [[0, 1], [2]]),
        ([2, 7, 3, 8], [[3, 0], [1, 2]]),  # 2 fits best beside 8, 3 beside 7
        ([10, 10], [[0], [1]]),
        ([6, 4, 4, 3, 2], [[0, 1], [2, 3, 4]]),
        ([], []),
    ],
)
def test_best_fit_decreasing_by_hand(lengths: list[int], expected: list[list[int]]) -> None:
    assert members(pack(lengths, capacity=10)) == expected


@pytest.mark.parametrize("lengths", [[11], [0, 3]])
def test_what_can_be_no_row(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="a packed row takes 1 to 10"):
        pack(lengths, capacity=10)


def test_fifty_thousand_rows_at_once() -> None:
    """Lengths as of instructions: many short ones, a long tail. Measured: 0.2 s on one core."""
    lengths = np.clip(np.random.default_rng(0).lognormal(4.6, 0.7, 52_002).astype(int), 8, 2048)
    began = time.process_time()
    packs = pack(lengths, capacity=2048)
    assert time.process_time() - began < 10
    assert 1 - lengths.sum() / (len(packs) * 2048) < 0.03


def rows(*lengths: int) -> Dataset:
    """Samples of these lengths, whose first token is not supervised, and tokens that say which sample they are of."""
    ids = [[1 + (7 * number + place) % 95 for place in range(length)] for number, length in enumerate(lengths)]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def packed_batches(data: Dataset, *, capacity: int, share: Share) -> GlobalBatches:
    packs = pack(token_counts(data), capacity=capacity)
    return GlobalBatches(data, share, seed=3, pad_token_id=PAD, packs=packs)


def test_a_batch_of_packs() -> None:
    data = rows(5, 3, 4)
    (batch,) = packed_batches(data, capacity=9, share=Share(1, 0, 3)).step(0)
    of_row = {tuple(row["input_ids"]): number for number, row in enumerate(data)}
    found = []
    for ids, mask, labels, positions in zip(*(batch[key].tolist() for key in batch), strict=True):
        begins = [place for place, position in enumerate(positions) if position == 0]
        for start, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            assert positions[start:end] == list(range(end - start))
            if mask[start] and ids[start] != PAD:
                found.append(of_row[tuple(ids[start:end])])
                assert labels[start:end] == [IGNORED, *ids[start + 1 : end]]
            else:
                assert set(labels[start:end]) == {IGNORED}
    assert sorted(found) == [0, 1, 2]


def test_ranks_divide_packs_and_name_their_rows() -> None:
    data = rows(*(3 + number % 9 for number in range(40)))
    one = packed_batches(data, capacity=16, share=Share(1, 0, 8))
    two = [packed_batches(data, capacity=16, share=Share(2, rank, 2, 2)) for rank in range(2)]
    assert one.fingerprint() == two[0].fingerprint()
    assert one.fingerprint() != GlobalBatches(data, Share(1, 0, 8), seed=3, pad_token_id=PAD).fingerprint()
    for step in range(one.steps_per_epoch):
        whole = {tuple(row) for batch in one.step(step) for row in real_rows(batch)}
        parts = {tuple(row) for rank in two for batch in rank.step(step) for row in real_rows(batch)}
        assert whole == parts
        assert one.row_numbers(step) == two[1].row_numbers(step)
    seen = [row for step in range(one.steps_per_epoch) for row in one.row_numbers(step)]
    assert sorted(seen) == list(range(40))


def real_rows(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True) if row[0] != PAD]


@pytest.mark.parametrize(
    ("attention", "dtype", "spread", "within"),
    [
        # Weights of LLaMA's own size at the start.
        ("eager", torch.float32, 0.02, 1e-5),
        ("sdpa", torch.float32, 0.02, 1e-5),
        # Ten times as large, in fp64: there fp32's own roundings reach 1.2e-5 on some processors. Eager attention takes
        # its softmax in fp32 whatever the model's type is.
        ("eager", torch.float64, 0.2, 1e-5),
        ("sdpa", torch.float64, 0.2, 1e-12),
    ],
    ids=["eager-fp32", "sdpa-fp32", "eager-fp64", "sdpa-fp64"],
)
@torch.no_grad()
def test_a_packed_document_has_the_logits_of_one_alone(
    attention: str, dtype: torch.dtype, spread: float, within: float
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=spread,
        attn_implementation=attention,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    data = rows(5, 3, 17, 9, 30, 2, 11)
    for batch in packed_batches(data, capacity=32, share=Share(1, 0, 3)).step(0):
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        packed = model(**inputs, use_cache=False).logits
        compared = 0
        for row, ids in enumerate(batch["input_ids"]):
            begins = (batch["position_ids"][row] == 0).nonzero().flatten().tolist()
            for start, end in zip(begins, [*begins[1:], len(ids)], strict=True):
                alone = model(ids[None, start:end], use_cache=False).logits[0]
                torch.testing.assert_close(packed[row, start:end], alone, rtol=0, atol=within)
                compared += 1
        assert compared > 3
