"""Published measured runs: the rows of a CSV file, read into numbers."""

import csv
import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import SpecError

CORPUS = Path(__file__).parents[1] / "corpus"
"""Published runs that come with the toolkit: runs.csv and oom_and_bounds.csv; README.md there says what they are."""

NEEDED = ("id", "model", "gpu", "n_gpus", "seq_len", "micro_batch", "framework")
"""Columns without which no row can be used; every other column may be missing and then counts as empty."""

UNITS = {
    **dict.fromkeys(("peak_mem_gib", "gpu_mem_gb"), "g(i?b)?"),
    "step_time_s": "s|secs?|seconds?",
    "tokens_per_s_per_gpu": "tok(en)?s?/s(/gpu)?",
    "mfu_pct": "%",
    "tflops_per_gpu": "tflops?(/s)?(/gpu)?",
    "params_b": "b",
    "seq_len": "tokens",
    "n_gpus": "gpus?",
}
"""Column -> the unit that its cells may name behind the number; any other word there may change what it means."""

NO = {"0", "0.0", "no", "n", "false", "f"}
"""How tables deny."""

LARGEST_COUNT = 10**9
"""No machine, model or batch has more of anything; what states more was written for something else."""
LARGEST = dict.fromkeys(("n_layers", "pp", "vpp"), 10**4)
"""The same of what the planner goes through one by one."""

UNKNOWN = {"-", "--", "?", "n/a", "na", "nan", "none", "not stated", "unknown"}
"""How tables write an empty cell of numbers."""

_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+(\.\d+)?(?![\d,])|\d+\.?\d*([eE][-+]?\d+)?|\.\d+)(?=(.*))", re.DOTALL)
_NEGATED = re.compile(
    r"\b(no|not|non|without|vs\.?|versus)[\s_-]+[\w.]+"
    r"|[\w.-]+(\s*[=:]\s*(false|no|off|0)|\s+(not used|off|disabled))\b",
    re.IGNORECASE,
)
"""What a text denies, or only compares with: "no liger", "not tiled", "vs unsloth", "liger=False"."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One row, as it was written: empty cells are empty strings."""

    cells: Mapping[str, str]
    """Column -> cell."""

    def text(self, column: str) -> str:
        """The cell without blanks at its ends; '' where the column or the value is missing."""
        return (self.cells.get(column) or "").strip()

    def words(self, column: str) -> str:
        """The cell in lower case; '' too where it says that nothing is stated."""
        text = self.text(column).lower()
        return "" if text in UNKNOWN - {"none"} else text

    def number(self, column: str) -> float | None:
        """The number of a cell: "3,200", "12.5 GiB" and "3 (FSDP2)" have one; None where nothing is stated.

        Raises:
            SpecError: the cell has no number, or words behind it that may change what it means ("4k", "1.2 ms").
        """
        text = self.text(column)
        if not text or text.lower() in UNKNOWN:
            return None
        match = _NUMBER.match(text)
        unit = UNITS.get(column, "")
        if match is None or not re.fullmatch(rf"\s*({unit})?\s*(\(.*)?", match[5], re.IGNORECASE | re.DOTALL):
            raise SpecError(f"{column} is {shortened(text)}, which is no number")
        value = float(match[0].replace(",", ""))
        if not math.isfinite(value):
            raise SpecError(f"{column} is {shortened(text)}, which is not finite")
        return value

    def count(self, column: str) -> int | None:
        """A positive whole number, or None.

        Raises:
            SpecError: no number, below 0, not whole, or beyond all reason.
        """
        value = self.number(column)
        if value is None or value == 0:
            return None
        if value < 0 or value % 1 or value > LARGEST.get(column, LARGEST_COUNT):
            raise SpecError(f"{column} is {shortened(self.text(column))}, which counts nothing")
        return int(value)

    def says(self, pattern: str, *columns: str) -> bool:
        """True where one of the cells (framework and notes if none is named) matches the pattern, case ignored."""
        return any(re.search(pattern, self.text(column), re.IGNORECASE) for column in columns or ("framework", "notes"))

    def affirms(self, pattern: str, *columns: str) -> bool:
        """The same without what a cell denies: "no liger" does not affirm liger."""
        cells = (_NEGATED.sub(" ", self.text(column)) for column in columns or ("framework", "notes"))
        return any(re.search(pattern, cell, re.IGNORECASE) for cell in cells)

    @property
    def curated(self) -> bool:
        """False for rows marked as duplicates or suspect; rows of files without that column count as curated."""
        return self.text("curated").lower() not in NO

    @property
    def llama_like(self) -> bool:
        """False for GPT-like models (no gated MLP)."""
        return self.text("llama_like").lower() not in NO


def read_runs(path: Path, needed: Collection[str] = NEEDED) -> list[MeasuredRun]:
    """Every row of a CSV file with a header line.

    Raises:
        SpecError: the file cannot be read, has no rows, or lacks a column of `needed`. What single cells say is read
            when it is needed, so that an odd one costs its own row only.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(csv.DictReader(file, strict=True), path, needed))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give an existing CSV file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8 text; give a CSV file") from None
    except csv.Error as error:
        raise SpecError(f"{path}: not a CSV file ({error}); give one with a header line") from None
    if not rows:
        raise SpecError(f"{path}: holds no rows; give a CSV file with a header line and at least one run")
    return rows


def shortened(cell: str) -> str:
    """A cell in quotes, as reasons show it."""
    return repr(cell if len(cell) <= 40 else f"{cell[:37]}...")


def _rows(reader: "csv.DictReader[str]", path: Path, needed: Collection[str]) -> Iterator[MeasuredRun]:
    reader.fieldnames = header = [name.strip() for name in reader.fieldnames or ()]
    if not header:
        raise SpecError(f"{path}: is empty; give a CSV file with a header line and at least one run")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise SpecError(f"{path}: names {', '.join(twice)} twice; each column needs a name of its own")
    if missing := [column for column in needed if column not in header]:
        near = {column: difflib.get_close_matches(column, set(header) - set(needed), n=1) for column in missing}
        words = [f"{column} (it has {near[column][0]}; rename it)" if near[column] else column for column in missing]
        raise SpecError(f"{path}: lacks the columns {', '.join(words)}; needed are {', '.join(needed)}")
    for row in reader:
        if any(cell.strip() for cell in row.pop(None, ())):
            raise SpecError(f"{path}:{reader.line_num}: has more cells than the header; quote cells that hold commas")
        yield MeasuredRun(row)
