"""Who computes which rows: each once, about as many tokens for every rank, rows of one length together."""

import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.balance import dealt, divided, imbalance
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import PreparedData, prepare
from toolkit.specs.data import DataConfig

sizes = st.sampled_from([1, 2, 3, 4])


@given(lengths=st.lists(st.integers(1, 500), max_size=64), dp=sizes, micro_batch=sizes, grad_accum=sizes)
def test_each_row_once_and_the_longest_first(lengths: list[int], dp: int, micro_batch: int, grad_accum: int) -> None:
    lengths = lengths[: dp * micro_batch * grad_accum]
    division = divided(lengths, dp=dp, micro_batch=micro_batch, grad_accum=grad_accum)
    assert len(division) == grad_accum
    assert all(len(ranks) == dp and all(len(places) <= micro_batch for places in ranks) for ranks in division)
    assert sorted(place for ranks in division for places in ranks for place in places) == list(range(len(lengths)))
    by_micro = [sorted(lengths[place] for places in ranks for place in places) for ranks in division]
    assert list(chain(*reversed(by_micro))) == sorted(lengths)


@given(
    lengths=st.lists(st.integers(1, 500), max_size=80),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    micro_batch=sizes,
)
def test_unequal_shares_have_each_row_once(lengths: list[int], counts: list[int], micro_batch: int) -> None:
    lengths = lengths[: sum(counts) * micro_batch]
    division = dealt(lengths, micro_batch=micro_batch, counts=counts)
    assert [len(own) for own in division] == counts
    assert all(len(places) <= micro_batch for own in division for places in own)
    assert sorted(place for own in division for places in own for place in places) == list(range(len(lengths)))


@pytest.mark.parametrize("counts", [(6, 2), (7, 1), (5, 5, 4, 2), (11, 3, 2)])
def test_rows_of_a_small_share_are_as_long_as_those_of_a_large_one(counts: tuple[int, ...]) -> None:
    """Lengths scatter as in alpaca (log-normal): over 200 global batches micro-batches have about as many tokens on all
    ranks."""
    draw, loads = random.Random(0), [0] * len(counts)
    for _ in range(200):
        lengths = [min(int(draw.lognormvariate(4.5, 0.8)), 1024) for _ in range(4 * sum(counts))]
        for rank, own in enumerate(dealt(lengths, micro_batch=4, counts=counts)):
            loads[rank] += sum(lengths[place] for places in own for place in places)
    tokens = [load / count for load, count in zip(loads, counts, strict=True)]
    assert max(tokens) <= 1.07 * min(tokens), tokens


@given(lengths=st.lists(st.integers(1, 500), min_size=16, max_size=16))
def test_no_rank_has_a_row_more_than_another(lengths: list[int]) -> None:
    """Of a full batch: the fullest exceeds the emptiest by no more than its longest row."""
    division = divided(lengths, dp=4, micro_batch=2, grad_accum=2)
    loads = [sum(lengths[place] for ranks in division for place in ranks[rank]) for rank in range(4)]
    assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize(
    ("loads", "expected"), [([5, 5], 0.0), ([6, 4], 0.2), ([4, 0], 1.0), ([3], 0.0), ([1, 1, 1, 5], 1.5)]
)
def test_imbalance_by_hand(loads: list[int], expected: float) -> None:
    assert imbalance(loads) == pytest.approx(expected)


@pytest.fixture(scope="module")
def alpaca(shared_data: Path, llama2: Any, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    config = DataConfig(train=str(shared_data / "sft" / "alpaca_data.json"), held_out_fraction=0.8, packing=True)
    return prepare(config, llama2, seq_len=1024, seed=1, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("micro_batch", "grad_accum", "grouped", "packs"),
    [(4, 1, True, False), (1, 4, True, False), (4, 4, True, False), (4, 4, False, False), (1, 2, False, True)],
)
def test_real_lengths_on_four_ranks(
    alpaca: PreparedData, micro_batch: int, grad_accum: int, grouped: bool, packs: bool
) -> None:
    batches = GlobalBatches(
        alpaca.train,
        Share(4, 0, micro_batch, grad_accum),
        seed=1,
        pad_token_id=0,
        packs=alpaca.packs if packs else None,
        grouped=grouped,
    )
    ours, in_order = batches.imbalance(200)
    print(f"\n{micro_batch=} {grad_accum=} {grouped=} {packs=}: {ours:.1%}, in the order of the rows {in_order:.1%}")
    assert ours <= 0.05
    assert ours <= in_order


def test_groups_keep_the_epoch(alpaca: PreparedData) -> None:
    """Every row once, another order in every epoch, and in a batch lengths much closer than in random order."""
    share = Share(1, 0, 16)
    batches = GlobalBatches(alpaca.train, share, seed=1, pad_token_id=0, grouped=True)
    steps = batches.steps_per_epoch
    first, second = ([batches.row_numbers(epoch * steps + step) for step in range(steps)] for epoch in (0, 1))
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(len(alpaca.train)))
    assert first != second
    widths = {grouped: padded_share(alpaca, share, grouped=grouped) for grouped in (False, True)}
    assert widths[True] < 0.1 < 0.4 < widths[False]


def padded_share(data: PreparedData, share: Share, *, grouped: bool) -> float:
    """Of the first batches, padding as a part of all tokens."""
    batches = GlobalBatches(data.train, share, seed=1, pad_token_id=0, grouped=grouped)
    masks = [batch["attention_mask"] for step in range(100) for batch in batches.step(step)]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
