"""JSON in any of its shapes, of any size, with the line of each row and of each fault."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from toolkit.data import json_stream
from toolkit.data.json_stream import json_values, line_values
from toolkit.errors import DataError

ROWS = [{"prompt": f"p{i}", "completion": "é\u2028\u0085 🙂" * i} for i in range(7)]


def write(folder: Path, content: str | bytes, name: str = "rows.json") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        json.dumps({"version": [1, 2], "note": {"a": []}, "data": ROWS}, ensure_ascii=False),
        "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\ufeff" + json.dumps(ROWS, indent=2).replace("\n", "\r\n"),
    ],
    ids=["array", "indented", "wrapped", "lines", "indented-objects", "bom-crlf"],
)
def test_every_shape_of_json(tmp_path: Path, text: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    assert [value for _, value in json_values(write(tmp_path, text))] == ROWS


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_json_lines_with_everything_that_is_harmless(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    text = "\ufeff" + "\r\n".join([lines[0], "", "  ", *lines[1:]])  # no line break at the end
    found = list(line_values(write(tmp_path, text, "rows.jsonl")))
    assert [value for _, value in found] == ROWS
    assert [line for line, _ in found] == [1, 4, 5, 6, 7, 8, 9]


def test_an_array_under_a_jsonl_name(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(ROWS, indent=1), "rows.jsonl")
    assert [value for _, value in line_values(path)] == ROWS


def test_rows_of_an_array_know_their_lines(tmp_path: Path) -> None:
    text = '[\n {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]'
    assert list(json_values(write(tmp_path, text))) == [(2, {"a": 1}), (5, {"a": 2}), (5, {"a": 3})]


def test_one_row_of_turns_is_a_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}]}
    assert [value for _, value in json_values(write(tmp_path, json.dumps(row)))] == [row]


def test_an_object_too_long_for_a_row_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WHOLE_OBJECT_CHARS", 50)
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 16)
    text = json.dumps({"data": ROWS, "n": 7})
    assert [value for _, value in json_values(write(tmp_path, text))] == ROWS


def test_memory_stays_flat(tmp_path: Path) -> None:
    text = "[" + ",".join([json.dumps({"a": "x" * 1000})] * 20_000) + "]"  # one line of 20 MB
    path = write(tmp_path, text)
    tracemalloc.start()
    assert sum(1 for _ in json_values(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON (Expecting value"),
        ("a.jsonl", '{"a": 1}\n\n[1\n', "a.jsonl:3: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: byte 0xff is not UTF-8; save"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xc3', "a.jsonl:2: byte 0xc3 is not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": "\x00"}\n', "a.jsonl:3: holds a NUL byte"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl:1: holds a NUL byte: damaged, or not UTF-8"),
        ("a.jsonl", '{"a": 1}\n' + '{"a":' * 100_000, "a.jsonl:2: not usable JSON"),
        ("a.json", '[\n{"a": 1},\n{"a": 2,}\n]', "a.json:3: not valid JSON"),
        ("a.json", '[\n{"a": 1}\n{"a": 2}\n]', "a.json:3: found '{', needs `,` or `]` after a sample"),
        ("a.json", '[\n{"a": 1},\n', "a.json:3: not valid JSON"),
        ("a.json", '[\n{"a": 1}\n', "a.json:3: found the end of the file (was it cut?), needs `,` or `]`"),
        ("a.json", '[{"a": 1}]\n{"a": 2}', "a.json:2: found '{', needs the end of the file after the array"),
        ("a.json", '[\n{"a": "x\n"}]', "a.json:2: not valid JSON (Invalid control character"),
        ("a.json", '{"a": 1}\n{"a" 2}', "a.json:2: not valid JSON"),
        ("a.json", "hello", "a.json:1: starts with 'h', needs an array of objects or one object per line"),
        ("a.json", b'[\n{"a": "\xe9"}]', "a.json:2: byte 0xe9 is not UTF-8"),
        ("a.json", '{"x": [{"a": 1}],\n"y": [{"a": 1}]}', "a.json:2: holds two arrays, `x` and `y`"),
        ("a.json.gz", b"{}", "a.json.gz: is not gzip data"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 50_000)[:-500], "the gzip data is truncated"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content, name)
    read = line_values if ".jsonl" in name else json_values
    with pytest.raises(DataError) as caught:
        list(read(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_fault_far_into_an_array_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1000)
    lines = ["["] + ['{"a": "' + "x" * 90 + '"},'] * 5000 + ['{"a": tru}', "]"]
    with pytest.raises(DataError, match=r":5002: not valid JSON"):
        list(json_values(write(tmp_path, "\n".join(lines))))


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(map(json.dumps, ROWS)).encode())
    assert [value for _, value in line_values(write(tmp_path, packed, "rows.jsonl.gz"))] == ROWS
