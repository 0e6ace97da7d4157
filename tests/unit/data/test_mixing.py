"""Several sources: how often each occurs, what is held out, what is left out as a duplicate, and what is said of it."""

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data import mixing
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import PreparedData, prepare
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig


def qa(count: int, mark: str = "a") -> list[dict[str, str]]:
    return [{"question": f"{mark} {i}?", "answer": f"{mark}{i}" + "!" * (i % 7)} for i in range(count)]


@pytest.fixture
def prepared(small: Any, write_rows: Any, tmp_path: Path) -> Any:
    """Sources a (20 rows), b (10) and c (4), mixed as the settings say."""
    for name, count in (("a", 20), ("b", 10), ("c", 4)):
        write_rows(qa(count, name), f"{name}.jsonl")

    def make(*train: str | dict[str, Any], seed: int = 0, **config: Any) -> PreparedData:
        entries = [{"source": each} if isinstance(each, str) else each for each in train]
        # The folder goes before the name, which stands for the source in what is said.
        sources = [{"name": each["source"], **each, "source": str(tmp_path / each["source"])} for each in entries]
        given = DataConfig(**{"train": sources, "template": "plain", **config})
        return prepare(given, small, seq_len=128, seed=seed, cache_dir=tmp_path / "cache")

    return make


def occurrences(data: PreparedData) -> Counter[str]:
    return Counter(data.train["answer"])


@pytest.mark.parametrize(
    ("weight", "rows", "each_occurs"), [(1, 10, {1}), (2, 20, {2}), (2.5, 25, {2, 3}), (0.3, 3, {1}), (0.001, 1, {1})]
)
def test_a_weight_is_passes_in_an_epoch(prepared: Any, weight: float, rows: int, each_occurs: set[int]) -> None:
    data = prepared("a.jsonl", {"source": "b.jsonl", "weight": weight})
    found = occurrences(data)
    of_b = {answer: count for answer, count in found.items() if answer.startswith("b")}
    assert sum(of_b.values()) == rows
    assert set(of_b.values()) == each_occurs
    assert len(of_b) == min(rows, 10)
    assert {answer: count for answer, count in found.items() if answer[0] == "a"} == {
        row["answer"]: 1 for row in qa(20)
    }


def test_what_is_less_than_a_pass_is_the_seeds_choice(prepared: Any) -> None:
    half = {"source": "a.jsonl", "weight": 0.5}
    chosen = [list(prepared(half, "b.jsonl", seed=seed).train["answer"]) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(chosen[0]) - set(chosen[2])


def test_a_single_source_is_what_it_always_was(prepared: Any, small: Any, tmp_path: Path) -> None:
    listed = prepared("a.jsonl", held_out_fraction=0.2, seed=3)
    plain = DataConfig.parse(
        {"train": str(tmp_path / "a.jsonl"), "template": "plain", "held_out_fraction": 0.2}, source="test"
    )
    alone = prepare(plain, small, seq_len=128, seed=3, cache_dir=tmp_path / "cache")
    assert list(listed.train["answer"]) == list(alone.train["answer"])
    # The rows that every release has held out of twenty at this seed: checkpoints go on only with the same ones.
    assert [row.rstrip("!") for row in alone.held_out["answer"]] == ["a3", "a6", "a7", "a12"]


@pytest.mark.parametrize("options", [{}, {"packing": True}, {"group_by_length": True}], ids=str)
def test_the_same_batches_for_every_layout_and_from_any_step(prepared: Any, options: dict[str, bool]) -> None:
    data = prepared("a.jsonl", {"source": "b.jsonl", "weight": 2.5}, {"source": "c.jsonl", "weight": 0.5}, **options)

    def batches(share: Share) -> GlobalBatches:
        grouped = options.get("group_by_length", False)
        return GlobalBatches(data.train, share, seed=5, pad_token_id=0, packs=data.packs, grouped=grouped)

    def tokens(ranks: list[GlobalBatches], step: int) -> Counter[int]:
        parts = [batch["input_ids"][batch["attention_mask"] == 1] for rank in ranks for batch in rank.step(step)]
        return Counter(chain.from_iterable(part.tolist() for part in parts))

    one = batches(Share(1, 0, 4))
    assert len(one._lengths) == (len(data.train) if data.packs is None else len(data.packs))
    steps = one.steps_per_epoch
    epoch = list(chain.from_iterable(one.row_numbers(step) for step in range(steps)))
    assert sorted(epoch) == list(range(20 + 25 + 2))
    for share in (Share(2, 0, 1, 2), Share(4, 0, 1)):
        ranks = [batches(replace(share, dp_rank=rank)) for rank in range(share.dp)]
        assert {rank.fingerprint() for rank in ranks} == {one.fingerprint()}
        for step in (steps + 1, 0, steps - 1):  # as a run that goes on asks for them
            assert ranks[0].row_numbers(step) == batches(Share(1, 0, 4)).row_numbers(step)
            real = {token: count for token, count in tokens(ranks, step).items() if token != 0}
            assert real == {token: count for token, count in tokens([one], step).items() if token != 0}


def test_another_weight_is_another_run(prepared: Any) -> None:
    def fingerprint(*train: Any, **config: Any) -> str:
        data = prepared(*train, **config)
        return GlobalBatches(data.train, Share(1, 0, 4), seed=0, pad_token_id=0, packs=data.packs).fingerprint()

    heavier = {"source": "b.jsonl", "weight": 2}
    found = [
        fingerprint("a.jsonl", "b.jsonl"),
        fingerprint("b.jsonl", "a.jsonl"),
        fingerprint("a.jsonl", heavier),
        fingerprint("a.jsonl", heavier, packing=True),
        fingerprint({"source": "a.jsonl", "weight": 1.5}, "b.jsonl"),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("deduplicate", [False, True])
def test_no_held_out_row_is_trained_on(prepared: Any, deduplicate: bool) -> None:
    heavy = [{"source": f"{name}.jsonl", "weight": 3} for name in "abc"]
    data = prepared(*heavy, held_out_fraction=0.25, deduplicate=deduplicate)
    held = list(data.held_out["answer"])
    assert len(held) == 5 + 2 + 1
    assert not set(held) & set(occurrences(data))
    assert set(occurrences(data).values()) == {3}
    # Of any beginning each source has about its part, as an evaluation may take only the first rows.
    assert {answer[0] for answer in held[:5]} == {"a", "b", "c"}
    assert [each.held_out for each in data.statistics.sources] == [5, 2, 1]


def test_nothing_left_of_a_source(prepared: Any) -> None:
    with pytest.raises(DataError, match=r"c.jsonl: held_out_fraction takes 4 of 4 rows, none is left to train on"):
        prepared("a.jsonl", "c.jsonl", held_out_fraction=0.9)


def test_duplicates_within_and_across_sources(prepared: Any, write_rows: Any) -> None:
    write_rows([*qa(3, "b"), *qa(2, "d"), *qa(2, "d")], "d.jsonl")
    data = prepared("b.jsonl", "d.jsonl", deduplicate=True)
    assert occurrences(data) == Counter(row["answer"] for row in [*qa(10, "b"), *qa(2, "d")])
    assert list(data.train["answer"])[:10] == [row["answer"] for row in qa(10, "b")]  # the first is kept
    assert [each.duplicates for each in data.statistics.sources] == [0, 5]
    assert data.statistics.duplicate_rows == 5
    assert "5 of 17 rows were left out: an earlier row has the same tokens and labels" in data.notes
    assert len(prepared("b.jsonl", "d.jsonl").train) == 17


def test_the_same_text_learnt_elsewhere_is_no_duplicate(prepared: Any, write_rows: Any) -> None:
    """Both are the tokens of `qqaa`; what is learnt of them differs."""
    write_rows([{"question": "qq", "answer": "aa"}, {"question": "qqa", "answer": "a"}], "d.jsonl")
    assert len(prepared("d.jsonl", deduplicate=True).train) == 2


def test_a_held_out_row_is_no_training_row(prepared: Any, write_rows: Any, tmp_path: Path) -> None:
    write_rows([*qa(3, "b"), *qa(1, "x"), *qa(1, "x")], "test.jsonl")
    data = prepared("a.jsonl", "b.jsonl", held_out=str(tmp_path / "test.jsonl"), deduplicate=True)
    assert not set(data.held_out["answer"]) & set(occurrences(data))
    assert len(data.train) == 20 + 7
    assert len(data.held_out) == 5  # what is measured stays as it was given
    assert [each.held_out_copies for each in data.statistics.sources] == [0, 3]
    assert "3 of 30 rows were left out: a held-out row has the same tokens and labels" in data.notes
    write_rows(qa(3, "b"), "e.jsonl")
    with pytest.raises(DataError, match=r"e.jsonl: all its rows are in another source or held out; leave it out"):
        prepared("b.jsonl", "e.jsonl", deduplicate=True)


def test_duplicates_are_on_one_side_of_a_split(prepared: Any, write_rows: Any) -> None:
    write_rows([row for row in qa(20, "d") for _ in range(3)], "d.jsonl")
    kept = prepared("d.jsonl", held_out_fraction=0.3, deduplicate=True)
    assert len(kept.held_out) == 6
    assert not set(kept.held_out["answer"]) & set(occurrences(kept))
    leaking = prepared("d.jsonl", held_out_fraction=0.3)
    assert set(leaking.held_out["answer"]) & set(occurrences(leaking))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_the_first_of_equals(pairs: list[tuple[int, int]]) -> None:
    expected = [pairs.index(pair) for pair in pairs]
    assert mixing._first_alike(np.array(pairs, dtype=np.uint64)).tolist() == expected


def test_each_source_has_columns_and_a_template_of_its_own(prepared: Any, write_rows: Any) -> None:
    write_rows([{"frage": "q", "antwort": "eins"}], "d.jsonl")
    write_rows([{"text": "just text"}], "e.jsonl")
    columns = {"prompt": "frage", "completion": "antwort"}
    data = prepared("c.jsonl", {"source": "d.jsonl", "columns": columns, "template": "alpaca"}, "e.jsonl")
    tokenizer = data.encoder.template.tokenizer
    texts = [tokenizer.decode(ids) for ids in data.train["input_ids"]]
    assert texts[0] == "<s> c 0?c0</s>"
    assert texts[4].endswith("### Instruction:\nq\n\n### Response:\neins</s>")
    assert texts[5] == "<s> just text</s>"
    assert "d.jsonl is in template alpaca; the model is saved with plain" in data.notes


def test_every_row_is_accounted_for(prepared: Any, write_rows: Any) -> None:
    odd = [{"question": "x" * 200, "answer": "y"}, *qa(2, "d"), *qa(1, "d")]
    write_rows(odd, "d.jsonl")
    sources = ("a.jsonl", {"source": "d.jsonl", "weight": 2})
    data = prepared(*sources, deduplicate=True, held_out_fraction=0.1)
    for each in data.statistics.sources:
        left_out = each.without_answer + each.prompt_too_long + each.duplicates + each.held_out_copies
        assert each.read == left_out + each.held_out + each.samples
    first, second = data.statistics.sources
    assert (second.read, second.prompt_too_long, second.duplicates, second.samples, second.rows) == (4, 1, 1, 2, 4)
    assert first.rows + second.rows == data.statistics.rows == len(data.train)
    assert first.tokens + second.tokens == data.statistics.tokens == sum(map(len, data.train["input_ids"]))
    assert first.supervised_tokens + second.supervised_tokens == data.statistics.supervised_tokens
    assert data.statistics.supervised_tokens == sum(data.train["num_supervised"])
    assert first.share + second.share == pytest.approx(1)
    assert second.share == pytest.approx(second.tokens / data.statistics.tokens)


def test_weights_and_splits_tokenize_nothing_anew(prepared: Any, tmp_path: Path) -> None:
    prepared("a.jsonl", "b.jsonl")
    before = sorted(tmp_path.glob("cache/*/rows.arrow"))
    weighted = {"source": "b.jsonl", "weight": 7}
    prepared("b.jsonl")
    prepared(weighted, "a.jsonl", deduplicate=True, held_out_fraction=0.5, packing=True)
    assert sorted(tmp_path.glob("cache/*/rows.arrow")) == before
    prepared("a.jsonl", train_on="last_turn")
    assert len(sorted(tmp_path.glob("cache/*/rows.arrow"))) == len(before) + 1
