"""Where samples come from: files, folders and hub ids, read row by row with the place of each row."""

import difflib
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Dataset, load_dataset

from toolkit.data.json_stream import json_values, line_values, text_chunks
from toolkit.data.running_text import stretches
from toolkit.errors import DataError

ROW_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
TEXT_SUFFIXES = (".txt", ".txt.gz")
"""A file is one text."""
SUFFIXES = ROW_SUFFIXES + TEXT_SUFFIXES
_PARQUET_ROWS = 200
"""Rows in memory at a time; of long documents a thousand would be too many."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Row(NamedTuple):
    """One raw row and where it stands, as in `train.jsonl:17`; of a text file, a part of it."""

    values: dict[str, Any]
    where: str
    begins: bool = True
    """False for a part of a text file after its first."""
    ends: bool = True
    """False for a part of a text file before its last."""


@dataclass(frozen=True)
class Source:
    """An opened source: local files in reading order, or one split of a hub data set."""

    name: str
    """As given by the user."""
    files: tuple[Path, ...] = ()
    """Data files in reading order; empty for a hub data set."""
    hub: Dataset | None = None
    """The loaded split of a hub data set."""

    def rows(self) -> Iterator[Row]:
        """Yield every row, with flat memory.

        Raises:
            DataError: a file without rows, a row that is not an object, broken text; with file and line.
        """
        if self.hub is not None:
            for number, values in enumerate(self.hub, start=1):
                yield Row(values, f"{self.name}:row {number}")
        for path in self.files:
            empty = True
            for row in _file_rows(path):
                empty = False
                yield row
            if empty:
                size = path.stat().st_size
                raise DataError(f"{path}: holds no rows ({size} bytes); fill it, remove it or give another file")

    def identity(self) -> list[str]:
        """What changes when the content does: path, size and time of each file, or revision and shape of a split."""
        if self.hub is not None:
            info = self.hub.info
            return [self.name, str(self.hub.num_rows), str(info.features), *sorted(info.download_checksums or {})]
        states = [(path.resolve(), path.stat()) for path in self.files]
        return [f"{path}|{state.st_size}|{state.st_mtime_ns}" for path, state in states]


def open_source(source: str, hub_split: str) -> Source:
    """Find what `source` names: a file, a folder of files, or a hub id (which is downloaded or taken from its cache).

    Raises:
        DataError: nothing there, no data file in the folder, unknown ending, hub data set or split not to be had.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return Source(source, _folder_files(path))
    if path.exists():
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{source}: unknown kind of file; give one of {', '.join(SUFFIXES)} or a folder of them")
        return Source(source, (path,))
    if path.name.endswith(SUFFIXES) or not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise DataError(f"{source}: no such file or folder{_nearest(path)}")
    return Source(source, hub=_hub_split(source, hub_split))


def _folder_files(folder: Path) -> tuple[Path, ...]:
    # A text beside rows is their README or licence.
    for endings in (ROW_SUFFIXES, TEXT_SUFFIXES):
        if files := sorted(path for path in folder.iterdir() if path.name.endswith(endings) and path.is_file()):
            return tuple(files)
    inner = sorted({path.parent for path in folder.glob("*/*") if path.name.endswith(SUFFIXES)})
    advice = f"did you mean {inner[0]}?" if inner else "give a folder that has some, or a file"
    raise DataError(f"{folder}: no data file here ({', '.join(SUFFIXES)}); {advice}")


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    if close := _close(path):
        return close
    names = [entry.name for entry in path.parent.iterdir()]
    data = sorted(name for name in names if name.endswith(SUFFIXES))[:5]
    return f"; {path.parent} has {', '.join(data)}" if data else f"; {path.parent} has no data file at all"


def _close(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _hub_split(source: str, split: str) -> Dataset:
    if source.isidentifier() and importlib.util.find_spec(f"datasets.packaged_modules.{source}"):
        # Under such a name `datasets` reads whatever lies in the working directory.
        raise DataError(f"{source}: a reader of the datasets library, needs a data set; give organisation/name")
    # ValueError: unknown split or builder; OSError: no network and the hub's own errors (DatasetNotFoundError and
    # ConnectionError are OSErrors); RuntimeError: data sets that need a loading script.
    try:
        return load_dataset(source, split=split)
    except (ValueError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: neither a file or folder here nor a hub data set with split `{split}` that can be loaded "
            f"({reason}); check the name, `hub_split` and the network{_close(Path(source))}"
        ) from error


def _file_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    if path.name.endswith(TEXT_SUFFIXES):
        yield from _text_rows(path)
        return
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    for line, value in line_values(path) if lines else json_values(path):
        where = f"{path}:{line}"
        if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
            yield Row({"messages": value}, where)  # a conversation is its turns
            continue
        if not isinstance(value, dict):
            raise DataError(f"{where}: the row is {_kind(value)}, needs an object such as {{'prompt': ..., ...}}")
        yield Row(value, where)


def _text_rows(path: Path) -> Iterator[Row]:
    """Parts of the one text."""
    for part in stretches(_unix_lines(path)):
        if part.text:
            yield Row({"text": part.text}, f"{path}:1", part.begins, part.ends)


def _unix_lines(path: Path) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(None, translate=True)
    for chunk in text_chunks(path):
        yield decoder.decode(chunk)
    yield decoder.decode("", final=True)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        # Mapped: otherwise a row group, often the whole file, is in memory before its first row.
        with pq.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in _values(batch):
                    number += 1
                    yield Row(values, f"{path}:row {number}")
    except UnicodeDecodeError as error:
        reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise DataError(f"{path}:row {number + 1}: {reason}; write the file again with text as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a whole Parquet file (row {number}: {reason}); copy or write it again") from error


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(len(batch)):  # up to the row that it is in
            yield from batch.slice(index, 1).to_pylist()


def _kind(value: object) -> str:
    names = {type(None): "null", list: "an array", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number")
