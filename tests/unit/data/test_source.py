"""Sources: files, folders, hub ids, and what is said when there is nothing to read."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from toolkit.data import source as source_module
from toolkit.data.source import open_source
from toolkit.errors import DataError

ROWS = [{"prompt": f"p{i}", "completion": "c"} for i in range(5)]


def fault(source: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        list(open_source(str(source), "train").rows())
    return str(caught.value)


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    Dataset.from_list(ROWS[3:]).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[2]))
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:2]))
    (tmp_path / "README.md").write_text("not data")
    rows = list(open_source(str(tmp_path), "train").rows())
    assert [row.values for row in rows] == ROWS
    assert [Path(row.where).name for row in rows] == [
        "a.json:1",
        "a.json:1",
        "b.jsonl:1",
        "c.parquet:row 1",
        "c.parquet:row 2",
    ]


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    before = open_source(str(path), "train").identity()
    assert open_source(str(path), "train").identity() == before
    path.write_text(json.dumps(ROWS[0]) + "\n")
    assert open_source(str(path), "train").identity() != before


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    assert fault(tmp_path / "trian.jsonl").endswith(f"no such file or folder; did you mean {tmp_path}/train.jsonl?")
    assert fault(tmp_path / "quite-other.jsonl").endswith(f"; {tmp_path} has train.jsonl")
    assert fault(tmp_path / "no" / "a.jsonl").endswith(f"; the folder {tmp_path}/no does not exist either")


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "no data file here (.json, .jsonl, .json.gz, .jsonl.gz, .parquet, .txt, .txt.gz); give a folder" in fault(
        tmp_path
    )
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "empty.jsonl").write_text(" \n\n")
    assert fault(tmp_path).endswith(f"did you mean {tmp_path}/inner?")
    assert "empty.jsonl: holds no rows (3 bytes); fill it" in fault(tmp_path / "inner")
    for name, content in [("zero.json", ""), ("none.json", "[]")]:
        (tmp_path / name).write_text(content)
    assert "zero.json: holds no rows (0 bytes)" in fault(tmp_path / "zero.json")
    assert "none.json: holds no rows (2 bytes)" in fault(tmp_path / "none.json")


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b")
    assert "rows.csv: unknown kind of file; give one of .json, .jsonl" in fault(tmp_path / "rows.csv")


@pytest.mark.parametrize(("value", "kind"), [([1], "an array"), ("x", "a string"), (None, "null"), (3, "a number")])
def test_a_row_must_be_an_object(tmp_path: Path, value: Any, kind: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(value))
    assert f"a.jsonl:2: the row is {kind}, needs an object" in fault(tmp_path / "a.jsonl")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    assert "a.parquet: not a whole Parquet file" in fault(tmp_path / "a.parquet")


def test_a_hub_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str) -> Dataset:
        asked.append((name, split))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr(source_module, "load_dataset", load)
    source = open_source("someone/some-data", "test")
    assert asked == [("someone/some-data", "test")]
    assert [row.values for row in source.rows()] == ROWS
    assert next(source.rows()).where == "someone/some-data:row 1"
    assert source.identity() == open_source("someone/some-data", "test").identity()


def test_a_hub_data_set_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, split: str) -> Dataset:
        raise ConnectionError("no network")

    monkeypatch.setattr(source_module, "load_dataset", load)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert fault("data/train.jsnl").endswith("; did you mean data/train.jsonl?")
    message = fault("someone/some-data")
    assert "neither a file or folder here nor a hub data set with split `train`" in message
    assert "no network" in message
