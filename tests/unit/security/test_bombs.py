"""S14: a small file that means a large one, or an endless one, is refused in little memory; so is what nests."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from toolkit.data import json_stream
from toolkit.data.json_stream import json_values, line_values
from toolkit.data.source import open_source
from toolkit.errors import DataError

MIB = 1 << 20
# The interpreter and the window over the file; a row of 16 Mi characters, as text and as what it means, is added to it.
LITTLE = 200 * MIB
ONE_ROW = 1024 * MIB
READ = """
import sys
from pathlib import Path
from toolkit.data import json_stream
from toolkit.data.json_stream import json_values, line_values
from toolkit.errors import DataError
json_stream.FREE_EXPANSION_BYTES = int(sys.argv[1])
for path in map(Path, sys.argv[2:]):
    rows = 0
    try:
        for _ in line_values(path) if ".jsonl" in path.name else json_values(path):
            rows += 1
    except DataError as error:
        print(str(error).removeprefix(str(path)), end="; ")
    print(rows, "rows")
"""
FREE = json_stream.FREE_EXPANSION_BYTES


def packed(path: Path, *parts: tuple[bytes, int]) -> Path:
    """A gzip file of repeated parts: as many MiB unpacked as there are times."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        for part, times in parts:
            block = part * (MIB // len(part))
            for _ in range(times):
                file.write(block)
    return path


def test_gzip_bombs(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    parts = {"a.jsonl.gz": b"\n", "a.json.gz": b" ", "b.jsonl.gz": b'{"a":1}\n', "b.json.gz": b'{"a":1} '}
    paths = [packed(tmp_path / name, (part, 8)) for name, part in parts.items()]
    assert all(path.stat().st_size < 8 * MIB / 250 for path in paths)
    # What is free is less here than the 256 MiB that it is: it takes as much time as there is to read.
    said = in_little_memory(READ, MIB, *paths, max_bytes=LITTLE)
    assert said.count("unpacks to more than 250 times its size; unpack it yourself") == len(paths)


def test_what_needs_no_reason_is_a_quarter_of_a_gigabyte() -> None:
    assert json_stream.FREE_EXPANSION_BYTES == 256 * MIB


def test_one_row_without_end(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    openings = [b'{"a": "', b'[{"a": "', b'{"a": [1], "b": [', b"[", b'{"a": ', b"1", b'"']
    paths = []
    for number, opening in enumerate(openings):
        for kind in ("jsonl", "json"):
            paths.append(tmp_path / f"{number}.{kind}")
            paths[-1].write_bytes(opening + b"1" * (40 * MIB))
    told = ("a row of more than 16,777,216 characters; cut it into several", "needs an array", "digits")
    for path, line in zip(paths, in_little_memory(READ, FREE, *paths, max_bytes=LITTLE).splitlines(), strict=True):
        assert line.endswith("; 0 rows")
        assert any(words in line for words in told), (path.name, line)


def test_deep_json(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    paths = []
    for number, bracket in enumerate(["[", '{"a":', '[{"a":']):
        for kind in ("jsonl", "json"):
            paths.append(tmp_path / f"{number}.{kind}")
            paths[-1].write_text('{"a": ' + bracket * 1_000_000)
    for line in in_little_memory(READ, FREE, *paths, max_bytes=LITTLE).splitlines():
        assert "not usable JSON (" in line
        assert "recursion" in line


def test_a_row_of_the_largest_size_fits(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    # What takes most memory for its text: five million empty lists, and signs of four bytes each.
    lists, signs = (
        f'{{"a": [{",".join([value] * (15 * MIB // (len(value) + 1)))}]}}' for value in ("[]", '"\U0001f642"')
    )
    (tmp_path / "lists.json").write_text(f"[{lists}]")
    (tmp_path / "signs.jsonl").write_text(signs)
    said = in_little_memory(READ, FREE, tmp_path / "lists.json", tmp_path / "signs.jsonl", max_bytes=ONE_ROW)
    assert said.splitlines() == ["1 rows", "1 rows"]


def test_ordinary_files_are_read(tmp_path: Path) -> None:
    # Rows that repeat pack well, and a long document is a row of some MiB.
    rows = [{"prompt": "say it again", "completion": "again " * 40, "number": number} for number in range(20_000)]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert sum(1 for _ in line_values(tmp_path / "rows.jsonl.gz")) == 20_000
    (tmp_path / "long.json").write_text(json.dumps([{"text": "word " * (2 * MIB)}]))
    assert [len(value["text"]) for _, value in json_values(tmp_path / "long.json")] == [10 * MIB]


def test_the_limit_of_a_row_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARS", 3000)
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 100)
    for name, read in (("a.jsonl", line_values), ("a.json", json_values)):
        path = tmp_path / name
        for length, fits in ((2900, True), (3500, False)):
            path.write_text('{"a": 1}\n' + json.dumps({"a": "x" * length}) + "\n" + '{"a": 2}')
            if fits:
                assert len(list(read(path))) == 3
            else:
                with pytest.raises(DataError, match=rf"{name}:2: a row of more than 3,000 characters; cut it"):
                    list(read(path))


def test_a_parquet_file_of_10_to_the_9_rows_is_read_bit_by_bit(tmp_path: Path) -> None:
    # One value, repeated: a kilobyte on disk. Written row group by row group, as the writer has no more memory either.
    group = pa.table({"text": pa.array(["x"] * 1_000_000).dictionary_encode()})
    with pq.ParquetWriter(tmp_path / "rows.parquet", group.schema) as writer:
        for _ in range(20):
            writer.write_table(group)
    assert (tmp_path / "rows.parquet").stat().st_size < MIB
    before = pa.total_allocated_bytes()
    rows = open_source(str(tmp_path / "rows.parquet"), "train").rows()
    for _ in range(5000):
        next(rows)
    assert pa.total_allocated_bytes() - before < 64 * MIB


def test_a_parquet_footer_that_lies(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * 100}), tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    for at in range(len(whole) - 8, len(whole) - 4):
        broken = bytearray(whole)
        broken[at] = 0xFF  # the footer's length
        (tmp_path / "rows.parquet").write_bytes(broken)
        with pytest.raises(DataError, match="not a whole Parquet file"):
            list(open_source(str(tmp_path / "rows.parquet"), "train").rows())


@pytest.mark.parametrize("name", ["json", "csv", "pandas", "eval", "webdataset"])
def test_a_reader_of_the_library_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # `datasets` would read train.json of whatever folder one happens to be in.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.json").write_text('{"text": "not asked for"}\n')
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=f"{name}: a reader of the datasets library, needs a data set"):
        open_source(name, "train")
    if name == "json":
        assert load_dataset("json", split="train", cache_dir=tmp_path / "cache")[0]["text"] == "not asked for"


def test_reading_opens_no_more_files_than_it_closes(tmp_path: Path) -> None:
    path = packed(tmp_path / "rows.jsonl.gz", (b'{"a":1}\n', 2))
    before = set(Path("/dev/fd").iterdir())
    for _ in range(20):
        next(line_values(path))
    assert len(set(Path("/dev/fd").iterdir()) - before) <= 1
