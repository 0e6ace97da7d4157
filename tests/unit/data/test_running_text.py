"""Long texts: no token is lost, each but the first is learnt once, and reading them takes no more memory."""

import gzip
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.encode import IGNORED
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import PreparedData, prepare
from toolkit.data.running_text import OpenText, stretches
from toolkit.specs.data import DataConfig

SEQ_LEN = 64


@pytest.fixture
def prepared(small: Any, tmp_path: Path) -> Any:
    def make(source: Path, seed: int = 0, **config: Any) -> PreparedData:
        given = DataConfig(**{"train": str(source), "template": "plain", **config})
        return prepare(given, small, seq_len=SEQ_LEN, seed=seed, cache_dir=tmp_path / "cache")

    return make


def texts_of(rows: Any) -> list[list[int]]:
    """Tokens of each text: its rows joined, without the token that each shares with the one before."""
    joined: list[list[int]] = []
    for ids, labels, piece in zip(rows["input_ids"], rows["labels"], rows["piece"], strict=True):
        assert labels == [IGNORED, *ids[1:]]
        assert len(ids) <= SEQ_LEN
        if piece:
            assert joined[-1][-1] == ids[0]
            joined[-1] += ids[1:]
        else:
            joined.append(list(ids))
    return joined


@given(st.lists(st.text("ab \n\u00e9", max_size=30), max_size=6), st.integers(1, 20))
def test_stretches_join_to_the_text(chunks: list[str], limit: int) -> None:
    parts = list(stretches(chunks, limit=limit))
    assert "".join(part.text for part in parts) == "".join(chunks)
    assert all(0 < len(part.text) <= limit for part in parts) or not "".join(chunks)
    assert [part.begins for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]


def test_where_a_text_is_divided() -> None:
    assert [part.text for part in stretches(["one two\n\n three\nfour five"], limit=18)] == [
        "one two\n\n three\n",
        "four five",
    ]
    assert [part.text for part in stretches(["one two\n\n three"], limit=9)] == ["one", " two\n\n", " three"]
    assert [part.text for part in stretches(["abcdefg"], limit=3)] == ["abc", "def", "g"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(2, 9), st.integers(1, 7))
def test_each_token_is_predicted_once(tokens: list[int], seq_len: int, part: int) -> None:
    text = OpenText()
    for _ in range(2):  # the second text knows nothing of the first
        parts = [tokens[start : start + part] for start in range(0, len(tokens), part)]
        rows = [
            row
            for index, each in enumerate(parts)
            for row in text.rows(each, ends=index == len(parts) - 1, seq_len=seq_len)
        ]
        assert [number for number, _ in rows] == list(range(len(rows)))
        assert rows[0][1] + [token for _, ids in rows[1:] for token in ids[1:]] == tokens
        assert all(len(ids) == seq_len for _, ids in rows[:-1])
        assert len(rows) == 1 or 2 <= len(rows[-1][1]) <= seq_len


def test_all_of_a_book_is_trained(prepared: Any, shared_data: Path, small: Any) -> None:
    path = shared_data / "tinyshakespeare.txt"
    data = prepared(path, packing=True)
    (tokens,) = texts_of(data.train)
    whole = small(path.read_text(encoding="utf-8"), split_special_tokens=True, add_special_tokens=False).input_ids
    assert tokens == [small.bos_token_id, *whole, small.eos_token_id]
    assert data.statistics.supervised_tokens == len(tokens) - 1
    assert data.statistics.cut_rows == 0
    (source,) = data.statistics.sources
    assert (source.read, source.read + source.pieces) == (1, len(data.train))
    assert f"texts longer than seq_len 64 go on in {len(data.train) - 1:,} further rows" in data.notes
    assert len(data.packs) == len(data.train)  # a short last row has nowhere to go


def test_a_row_of_text_is_as_a_file(prepared: Any, shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:20_000]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    (tmp_path / "b.txt").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    expected = texts_of(prepared(tmp_path / "a.jsonl").train)
    assert len(expected) == 1
    assert [texts_of(prepared(tmp_path / name).train) for name in ("b.txt", "c.txt.gz")] == [expected] * 2


def test_texts_of_a_folder(prepared: Any, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("b.txt", "zwei " * 40), ("a.txt", "eins")):
        (folder / name).write_text(text)
    data = prepared(folder)
    assert [piece == 0 for piece in data.train["piece"]].count(True) == 2
    assert data.statistics.sources[0].read == 2
    # A README beside rows is none of them.
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}))
    assert prepared(folder).train["answer"] == ["a"]


def test_an_empty_text_is_still_a_row(prepared: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "once " * 99, "b")))
    data = prepared(tmp_path / "a.jsonl")
    assert [piece == 0 for piece in data.train["piece"]].count(True) == 3
    assert "1 of 3 rows have an empty answer or text: they teach to say nothing" in data.notes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_text_at_most_is_on_both_sides(prepared: Any, tmp_path: Path, seed: int) -> None:
    rows = [{"text": " ".join(f"{number}x{place}" for place in range(1 + 40 * (number % 5)))} for number in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    every = prepared(tmp_path / "a.jsonl")
    data = prepared(tmp_path / "a.jsonl", seed=seed, held_out_fraction=0.2)
    assert len(data.held_out) == round(len(every.train) * 0.2)
    assert len(data.held_out) + len(data.train) == len(every.train)
    number = np.cumsum(np.array(every.train["piece"]) == 0)
    place = {tuple(ids): index for index, ids in enumerate(every.train["input_ids"])}
    held = sorted(place[tuple(ids)] for ids in data.held_out["input_ids"])
    texts = {
        text: [index in held for index in group] for text, group in groupby(range(len(number)), number.__getitem__)
    }
    divided = [sides for sides in texts.values() if len(set(sides)) == 2]
    assert len(divided) <= 1
    assert all(sides == sorted(sides) for sides in divided)  # its end is held out


def test_the_end_of_a_single_book_is_held_out(prepared: Any, shared_data: Path) -> None:
    whole = prepared(shared_data / "tinystories_sample.txt").train["input_ids"]
    data = prepared(shared_data / "tinystories_sample.txt", held_out_fraction=0.1)
    count = round(len(whole) * 0.1)
    assert data.held_out["input_ids"] == whole[-count:]
    assert data.train["input_ids"] == whole[:-count]


def test_any_step_can_be_asked_for(prepared: Any, shared_data: Path) -> None:
    data = prepared(shared_data / "tinystories_sample.txt")
    straight, resumed = (GlobalBatches(data.train, Share(1, 0, 4), seed=3, pad_token_id=0) for _ in range(2))
    steps = [straight.step(index)[0]["input_ids"].tolist() for index in range(6)]
    assert [resumed.step(index)[0]["input_ids"].tolist() for index in (5, 0)] == [steps[5], steps[0]]
    assert straight.fingerprint() == resumed.fingerprint()
