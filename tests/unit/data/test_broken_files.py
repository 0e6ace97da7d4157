"""Files as they come from people and programs: each trains, or is refused with file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.data.prepare import PreparedData, prepare
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig

ROW = {"prompt": "q", "completion": "a"}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def prepared(small: Any, tmp_path: Path) -> Any:
    def make(name: str, content: str | bytes | pa.Table, **config: Any) -> PreparedData:
        path = tmp_path / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = DataConfig(**{"train": str(path), "template": "plain", **config})
        return prepare(given, small, seq_len=256, seed=0, cache_dir=tmp_path / "cache")

    return make


TRAINS: dict[str, tuple[str, str | bytes, int]] = {
    "JSON lines under a .json name": ("a.json", lines(ROW, ROW), 2),
    "U+2028 in a string": ("a.json", lines({**ROW, "prompt": "q\u2028r\u0085"}, ROW), 2),
    "a BOM": ("a.jsonl", b"\xef\xbb\xbf" + lines(ROW, ROW).encode(), 2),
    "line ends of Windows": ("a.jsonl", lines(ROW, ROW).replace("\n", "\r\n"), 2),
    "NaN where nobody looks": ("a.jsonl", lines(ROW, '{"prompt": "q", "completion": "a", "score": NaN}'), 2),
    "some rows have an input": (
        "a.jsonl",
        lines(*({"instruction": "i", "output": "o", **x} for x in ({}, {"input": "x"}))),
        2,
    ),
    "an array in one line": ("a.jsonl", json.dumps([ROW, ROW]), 2),
    "an array in one line behind a blank one": ("a.jsonl", f"\n {json.dumps([{'messages': TURNS}])}", 1),
    "an array of bare lists in one line": ("a.jsonl", json.dumps([TURNS, TURNS]), 2),
    "bare lists of turns": ("a.jsonl", lines(TURNS, TURNS), 2),
    "a bare list in an array": ("a.json", json.dumps([TURNS]), 1),
    "roles in capitals": ("a.jsonl", lines(talk(("User", "q"), ("Assistant", "a"))), 1),
    "roles of all kinds": ("a.jsonl", lines(talk(("human", "q"), ("gpt", "a"), ("user", "q"), ("bot", "a"))), 1),
    "an answer first, two questions, two answers": (
        "a.jsonl",
        lines(talk(("gpt", "Hi"), ("user", "q"), ("user", "r"), ("assistant", "a"), ("assistant", "b"), ("user", "z"))),
        1,
    ),
    "no turns, or only a question, in some": ("a.jsonl", lines(talk(), talk(("user", "q")), {"messages": TURNS}), 1),
    "a row of 10,000 tokens": ("a.jsonl", lines({"prompt": "q", "completion": "a " * 10_000}, ROW), 2),
    "a prompt of 10,000 tokens": ("a.jsonl", lines({"prompt": "q " * 10_000, "completion": "a"}, ROW), 1),
    "two gzip members": ("a.jsonl.gz", gzip.compress(lines(ROW).encode()) * 2, 2),
}


@pytest.mark.parametrize("case", TRAINS)
def test_what_trains(prepared: Any, case: str) -> None:
    name, content, rows = TRAINS[case]
    data = prepared(name, content)
    assert len(data.train) == rows
    assert all(data.train["num_supervised"])


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "an empty file": ("a.jsonl", "", "a.jsonl: holds no rows (0 bytes)"),
    "an empty gzip": ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz: holds no rows"),
    "a comma after the last row": ("a.json", '[\n{"prompt": "q", "completion": "a"},\n]', "a.json:3: not valid JSON"),
    "commas between lines": ("a.jsonl", '{"prompt": "q", "completion": "a"},\n' * 2, "a.jsonl:1: not valid JSON"),
    "NaN for an answer": (
        "a.jsonl",
        lines(ROW, '{"prompt": "q", "completion": NaN}'),
        "a.jsonl:2: `completion` is float",
    ),
    "other columns later": ("a.jsonl", lines(ROW, {"question": "q", "answer": "a"}), "a.jsonl:2: no column `prompt`"),
    "a key twice": (
        "a.jsonl",
        lines(ROW, '{"prompt": "q", "completion": "a", "completion": "b"}'),
        "a.jsonl:2: not usable JSON (key `completion` twice in one object)",
    ),
    "a key twice in an array": (
        "a.json",
        '[\n{"prompt": "q", "prompt": "r", "completion": "a"}]',
        "a.json:2: not usable",
    ),
    "a key twice in a turn": (
        "a.jsonl",
        '{"messages": [{"role": "user", "role": "user"}]}',
        "a.jsonl:1: not usable JSON",
    ),
    "numbers for text": ("a.jsonl", lines(ROW, {"prompt": "q", "completion": 2}), "a.jsonl:2: `completion` is int (2)"),
    "0 for an input": (
        "a.jsonl",
        lines({"instruction": "i", "input": 0, "output": "o"}),
        "a.jsonl:1: `input` is int (0)",
    ),
    "a list for an input": (
        "a.jsonl",
        lines({"instruction": "i", "input": [], "output": "o"}),
        "a.jsonl:1: `input` is list",
    ),
    "null for a turn": (
        "a.jsonl",
        lines({"messages": TURNS}, {"messages": [None]}),
        "a.jsonl:2: `messages[0]` is NoneType",
    ),
    "null in a turn": ("a.jsonl", lines(talk(("user", "q"), ("assistant", None))), "a.jsonl:1: `messages[1]` is null"),  # type: ignore[arg-type]
    "null for the turns": (
        "a.jsonl",
        lines({"messages": TURNS}, {"messages": None}),
        "a.jsonl:2: `messages` is NoneType",
    ),
    "a tool's turn": (
        "a.jsonl",
        lines(talk(("user", "q"), ("tool", "42"), ("assistant", "a"))),
        "a.jsonl:1: `messages[1]` has role 'tool'",
    ),
    "no answer at all": ("a.jsonl", lines(talk(("system", "s"), ("assistant", "a"))), "a.jsonl: none of its 1 rows"),
    "a truncated gzip": (
        "a.jsonl.gz",
        gzip.compress(lines(*({"prompt": str(i), "completion": str(i * i)} for i in range(5000))).encode())[:-30],
        "a.jsonl.gz:49",  # 4998: what was whole before it was read
    ),
    "garbage after gzip": (
        "a.jsonl.gz",
        gzip.compress(lines(ROW, ROW).encode()) + b"garbage",
        "a.jsonl.gz:3: the gzip data is damaged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(prepared: Any, tmp_path: Path, case: str) -> None:
    name, content, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        prepared(name, content)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_empty_answers_train_and_are_said(prepared: Any) -> None:
    data = prepared("a.jsonl", lines(ROW, {"prompt": "q", "completion": ""}, {"prompt": "q", "completion": " \n"}))
    assert len(data.train) == 3
    assert "2 of 3 rows have an empty answer or text: they teach to say nothing" in data.notes
    data = prepared("b.jsonl", lines({"text": "once"}, {"text": ""}))
    assert "1 of 2 rows have an empty answer or text: they teach to say nothing" in data.notes


def test_conversations_in_parquet(prepared: Any) -> None:
    assert len(prepared("a.parquet", pa.Table.from_pylist([{"messages": TURNS}] * 3)).train) == 3
    # Rows of two kinds in one file: each turn has the keys of both, half of them null.
    nothing = dict.fromkeys(("from", "value"))
    mixed = [{"messages": [{**turn, **nothing} for turn in TURNS]}]
    assert len(prepared("b.parquet", pa.Table.from_pylist(mixed)).train) == 1
    with pytest.raises(DataError, match=r"c.parquet:row 2: `messages` is NoneType"):
        prepared("c.parquet", pa.Table.from_pylist([{"messages": TURNS}, {"messages": None}]))


def test_parquet_with_text_that_is_none(prepared: Any) -> None:
    good, bad = pa.array([b"q", b"r"]), pa.array([b"fine", b"\xff"])
    text = [pa.Array.from_buffers(pa.string(), 2, column.buffers()) for column in (good, bad)]
    table = pa.table({"prompt": text[0], "completion": text[1]})
    with pytest.raises(DataError, match=r"a.parquet:row 2: byte 0xff is not UTF-8"):
        prepared("a.parquet", table)


@pytest.mark.parametrize(
    "turns", [("user", "system", "assistant"), ("system", "system", "user", "assistant")], ids=" ".join
)
def test_a_system_text_that_llama2_has_no_place_for(prepared: Any, turns: tuple[str, ...]) -> None:
    row = lines(talk(*((role, f"{role} says") for role in turns)))
    with pytest.raises(DataError, match=r"a.jsonl:1: .*llama2\) has a system text only before a user's; the turns are"):
        prepared("a.jsonl", row, template="llama2")
    assert len(prepared("a.jsonl", row).train) == 1
