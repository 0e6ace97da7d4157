"""Published measured runs: the rows of a CSV file, read into numbers."""

import csv
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import SpecError

CORPUS = Path(__file__).parents[1] / "corpus"
"""Published runs that come with the toolkit: runs.csv and oom_and_bounds.csv; README.md there says what they are."""

NEEDED = ("id", "model", "gpu", "n_gpus", "seq_len", "micro_batch", "framework")
"""Columns without which no row can be used; every other column may be missing and then counts as empty."""

NUMBERS = (
    *("params_b", "n_layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "gpu_mem_gb", "n_gpus", "gpus_per_node"),
    *("seq_len", "micro_batch", "grad_accum", "global_batch", "dp", "tp", "pp", "vpp", "cp", "ulysses_sp"),
    *("zero_stage", "peak_mem_gib", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu_pct", "step_time_s"),
)
"""Columns whose cells are empty or begin with a number, as 3 (FSDP2)."""

UNKNOWN = {"-", "?", "n/a", "na", "nan", "none", "not stated", "unknown"}
"""How tables write an empty cell of numbers."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One row, as it was written: empty cells are empty strings."""

    cells: Mapping[str, str]
    """Column -> cell."""

    def text(self, column: str) -> str:
        """The cell without blanks at its ends; '' where the column or the value is missing."""
        return (self.cells.get(column) or "").strip()

    def number(self, column: str) -> float | None:
        """The number at the beginning of the cell, as 3 of '3 (FSDP2)'; None where there is none."""
        match = re.match(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+)", self.text(column))
        return float(match[0]) if match else None

    def count(self, column: str) -> int | None:
        """A positive whole number, or None."""
        value = self.number(column)
        return int(value) if value is not None and value >= 1 else None

    def says(self, pattern: str, *columns: str) -> bool:
        """True where one of the cells (framework and notes if none is named) matches the pattern, case ignored."""
        return any(re.search(pattern, self.text(column), re.IGNORECASE) for column in columns or ("framework", "notes"))

    @property
    def curated(self) -> bool:
        """False for rows marked as duplicates or suspect; rows of files without that column count as curated."""
        return self.text("curated") != "0"

    @property
    def llama_like(self) -> bool:
        """False for GPT-like models (no gated MLP)."""
        return self.text("llama_like") != "0"


def read_runs(path: Path, needed: Collection[str] = NEEDED) -> list[MeasuredRun]:
    """Every row of a CSV file with a header line.

    Raises:
        SpecError: the file cannot be read, has no rows, lacks a column of `needed`, or has words where numbers belong.
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


def _rows(reader: "csv.DictReader[str]", path: Path, needed: Collection[str]) -> Iterator[MeasuredRun]:
    header = reader.fieldnames
    if header is None:
        raise SpecError(f"{path}: is empty; give a CSV file with a header line and at least one run")
    if missing := [column for column in needed if column not in header]:
        near = {column: difflib.get_close_matches(column, set(header) - set(needed), n=1) for column in missing}
        words = [f"{column} (it has {near[column][0]}; rename it)" if near[column] else column for column in missing]
        raise SpecError(f"{path}: lacks the columns {', '.join(words)}; needed are {', '.join(needed)}")
    for row in reader:
        if None in row:
            raise SpecError(f"{path}:{reader.line_num}: has more cells than the header; quote cells that hold commas")
        run = MeasuredRun(row)
        for column in NUMBERS:
            if run.number(column) is None and (cell := run.text(column)) and cell.lower() not in UNKNOWN:
                raise SpecError(
                    f"{path}:{reader.line_num}: {column} is {cell!r}, needs a number; correct the cell or empty it"
                )
        yield run
