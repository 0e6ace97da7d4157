"""The order: the same global batches for every layout, every row once per epoch, exact means in short batches."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.batches import Batch, spaced, spaced_rows
from toolkit.data.encode import IGNORED
from toolkit.data.loader import GlobalBatches, Share, epoch_order, eval_batches, prompt_batches
from toolkit.data.prepare import prepare
from toolkit.specs.data import DataConfig

PAD = 0


def rows_of(count: int) -> Dataset:
    """Row i holds the tokens 1000 + i, i % 5 + 2 of them, the first without a label."""
    ids = [[1000 + i] * (i % 5 + 2) for i in range(count)]
    return Dataset.from_dict({"input_ids": ids, "labels": [[IGNORED, *row[1:]] for row in ids]})


ROWS = {count: rows_of(count) for count in (1, 3, 16, 29, 64)}


def held(batches: list[Batch]) -> list[int]:
    """The data set's rows in some batches, in order, without stand-ins."""
    return [int(ids[0]) - 1000 for batch in batches for ids in batch["input_ids"] if ids[0] != PAD]


def all_ranks(count: int, *, dp: int, micro_batch: int, grad_accum: int) -> list[GlobalBatches]:
    shares = [Share(dp, rank, micro_batch, grad_accum) for rank in range(dp)]
    return [GlobalBatches(ROWS[count], share, seed=7, pad_token_id=PAD) for share in shares]


LAYOUTS = st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))


@settings(deadline=None, max_examples=60)
@given(count=st.sampled_from(list(ROWS)), layout=LAYOUTS, step=st.integers(0, 200))
def test_all_ranks_together_hold_the_global_batch(count: int, layout: tuple[int, int, int], step: int) -> None:
    dp, micro_batch, grad_accum = layout
    ranks = all_ranks(count, dp=dp, micro_batch=micro_batch, grad_accum=grad_accum)
    batches = [rank.step(step) for rank in ranks]
    assert all(len(micros) == grad_accum for micros in batches)
    assert all(batch["input_ids"].shape[0] == micro_batch for micros in batches for batch in micros)
    together = sorted(row for micros in batches for row in held(micros))
    one = GlobalBatches(ROWS[count], Share(1, 0, dp * micro_batch * grad_accum), seed=7, pad_token_id=PAD)
    assert together == sorted(held(one.step(step))) == sorted(one.row_numbers(step))
    assert all(rank.row_numbers(step) == one.row_numbers(step) for rank in ranks)


@settings(deadline=None, max_examples=30)
@given(count=st.sampled_from(list(ROWS)), layout=LAYOUTS, epoch=st.integers(0, 3))
def test_each_row_comes_once_per_epoch(count: int, layout: tuple[int, int, int], epoch: int) -> None:
    dp, micro_batch, grad_accum = layout
    ranks = all_ranks(count, dp=dp, micro_batch=micro_batch, grad_accum=grad_accum)
    per_epoch = ranks[0].steps_per_epoch
    assert per_epoch == -(-count // (dp * micro_batch * grad_accum))
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    seen = [row for step in steps for rank in ranks for row in held(rank.step(step))]
    assert sorted(seen) == list(range(count))


@settings(deadline=None, max_examples=30)
@given(layout=LAYOUTS)
def test_the_token_mean_of_a_short_batch_is_exact(layout: tuple[int, int, int]) -> None:
    dp, micro_batch, grad_accum = layout
    ranks = all_ranks(29, dp=dp, micro_batch=micro_batch, grad_accum=grad_accum)
    last = ranks[0].steps_per_epoch - 1
    labels = [batch["labels"][batch["labels"] != IGNORED] for rank in ranks for batch in rank.step(last)]
    expected = [label for row in ranks[0].row_numbers(last) for label in ROWS[29][row]["labels"][1:]]
    assert sorted(torch.cat(labels).tolist()) == sorted(expected)


def test_order_changes_with_epoch_and_seed() -> None:
    orders = {tuple(epoch_order(64, seed=seed, epoch=epoch).tolist()) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 9
    assert epoch_order(5, seed=42, epoch=0).tolist() == epoch_order(5, seed=42, epoch=0).tolist()


def test_any_step_can_be_asked_for() -> None:
    straight, resumed = (all_ranks(29, dp=1, micro_batch=2, grad_accum=2)[0] for _ in range(2))
    steps = [straight.step(index) for index in range(20)]
    for index in (17, 3, 12):
        for old, new in zip(steps[index], resumed.step(index), strict=True):
            assert all(torch.equal(old[name], new[name]) for name in old)


def test_padding() -> None:
    rows = Dataset.from_dict({"input_ids": [[5] * 9, [6, 7]], "labels": [[IGNORED] + [5] * 8, [IGNORED, 7]]})
    (batch,) = eval_batches(rows, Share(1, 0, 3), pad_token_id=PAD)
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), ((3, 16), torch.int64)
    )
    assert batch["input_ids"][1].tolist() == [6, 7] + [PAD] * 14
    assert batch["attention_mask"].sum(1).tolist() == [9, 2, 1]
    assert batch["labels"][1].tolist() == [IGNORED, 7] + [IGNORED] * 14
    assert (batch["labels"][2] == IGNORED).all()


@pytest.mark.parametrize("count", [29, 10, 1])
def test_evaluation_is_shared_in_equal_counts(count: int) -> None:
    shares = [Share(4, rank, 2) for rank in range(4)]
    ranks = [eval_batches(ROWS[29].select(range(count)), share, pad_token_id=PAD) for share in shares]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(row for batches in ranks for row in held(batches)) == list(range(count))


@given(size=st.integers(0, 3000), limit=st.one_of(st.none(), st.integers(0, 400)))
def test_measured_rows_are_spaced_evenly(size: int, limit: int | None) -> None:
    rows = spaced_rows(size, limit)
    count = size if limit is None else min(size, limit)
    # One of each stretch: no beginning of the rows has more than its part of those that are measured.
    assert len(rows) == count
    assert all(abs(place - row * count / size) <= 1 for place, row in enumerate(rows))


def test_measured_rows_are_of_all_sources_that_take_turns() -> None:
    assert [sum(row % 2 for row in spaced_rows(count, count // 2)) for count in (40, 400, 4000)] == [10, 100, 1000]


def test_prompts_are_padded_left_and_shared(small: Any, write_rows: Any, tmp_path: Any) -> None:
    rows = [{"prompt": "x" * (i + 1), "completion": f"{i}"} for i in range(7)]
    config = DataConfig(train=str(write_rows(rows)), template="plain")
    data = prepare(config, small, seq_len=64, seed=0, cache_dir=tmp_path / "c")
    shares = [Share(2, rank, 2) for rank in range(2)]
    some = spaced(data.train, 5)
    ranks = [prompt_batches(some, share, encoder=data.encoder, pad_token_id=2) for share in shares]
    for prompts in ranks:
        assert prompts is not None
        assert len(prompts.batches) == 2
        assert len(prompts.prompts) == len(prompts.answers)
        for batch in prompts.batches:
            assert batch["input_ids"].shape == batch["attention_mask"].shape
            assert batch["attention_mask"][:, -1].tolist() == [1, 1]
            assert (batch["input_ids"][batch["attention_mask"] == 0] == 2).all()
        ids = torch.cat([batch["input_ids"] for batch in prompts.batches if batch["input_ids"].shape[1] == 8])
        for row, prompt in zip(ids, prompts.prompts, strict=False):
            assert small.decode([token for token in row.tolist() if token != 2]) == prompt
    asked = [str(row) for row in spaced_rows(7, 5)]
    assert [prompts.answers for prompts in ranks if prompts] == [[asked[0], asked[1], asked[4]], asked[2:4]]
    assert ranks[0] is not None
    assert ranks[0].prompts[1] == f"<s> {'x' * (int(asked[1]) + 1)}"


def test_plain_text_has_no_prompts(small: Any, write_rows: Any, tmp_path: Any) -> None:
    config = DataConfig(train=str(write_rows([{"text": "Once upon a time"}])))
    data = prepare(config, small, seq_len=64, seed=0, cache_dir=tmp_path / "c")
    assert prompt_batches(data.train, Share(1, 0, 2), encoder=data.encoder, pad_token_id=2) is None


def test_each_row_counts_for_the_fingerprint() -> None:
    """Of many rows, too: a resume must not go on with others."""

    def fingerprint(ids: list[list[int]], labels: list[list[int]]) -> str:
        rows = Dataset.from_dict({"input_ids": ids, "labels": labels})
        return GlobalBatches(rows, Share(1, 0, 8), seed=1, pad_token_id=PAD).fingerprint()

    ids = [[1, 2, number % 90] for number in range(12_000)]
    labels = [[IGNORED, *row[1:]] for row in ids]
    found = {fingerprint(ids, labels), fingerprint(ids[::-1], labels[::-1]), fingerprint(ids[:-1], labels[:-1])}
    for place in (1, 5_000, 11_999):
        other = [*ids[:place], [1, 2, 91], *ids[place + 1 :]]
        found |= {fingerprint(other, labels)}
        unlearnt = [*labels[:place], [IGNORED] * 3, *labels[place + 1 :]]
        found |= {fingerprint(ids, unlearnt)}
    assert len(found) == 3 + 6
    assert fingerprint(ids, labels).startswith("12000 rows ")


def test_the_fingerprint_of_prepared_rows(small: Any, write_rows: Any, tmp_path: Any) -> None:
    rows = [{"prompt": f"q{number}", "completion": "a"} for number in range(1100)]
    files = [
        write_rows(rows, "a.jsonl"),
        write_rows([*rows[:10], {**rows[10], "completion": "b"}, *rows[11:]], "b.jsonl"),
    ]
    for config in ({}, {"packing": True}, {"held_out_fraction": 0.01}):
        found = []
        for file in (*files, files[0]):
            given = DataConfig(train=str(file), template="plain", **config)
            data = prepare(given, small, seq_len=64, seed=0, cache_dir=tmp_path / "c")
            batches = GlobalBatches(data.train, Share(1, 0, 8), seed=1, pad_token_id=PAD, packs=data.packs)
            found.append(batches.fingerprint())
        assert found[0] == found[2] != found[1]
