"""Runs that ran out of memory, and longest sequences that fit: rows of a second CSV, which names only part of a set-up.

What a row leaves out is taken from the measured runs of the same table: the sizes from a run of the same model, the
framework, precision and checkpointing from the same source. What no run says stays unknown, and the row unused.
"""

import re
from collections.abc import Iterable, Mapping

from toolkit.errors import SpecError
from toolkit.planner.memory import estimate_memory
from toolkit.planner.validation.oom import limit
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.setups import Case, case_of
from toolkit.planner.validation.wording import checkpointing_stated

NEEDED = ("id", "model", "status", "gpu", "n_gpus")
"""Columns without which no row of such a file can be used."""

SIZES = ("params_b", "n_layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "llama_like")
"""Columns that follow from the model."""

CIRCUMSTANCES = ("framework", "precision", "interconnect", "gpus_per_node", "optimizer")
"""Columns that one table has in common."""


def is_clean(row: MeasuredRun) -> bool:
    """The run is known to have run out of memory."""
    return row.says(r"^\W*((cuda|gpu|torch)[ .]?)*(oom|out[ -]of[ -]memory)\b", "status")


def is_noisy(row: MeasuredRun) -> bool:
    """The run crashed, possibly for another reason: nanotron's bench writes one status for both."""
    return row.says("crash", "status")


def is_bound(row: MeasuredRun) -> bool:
    """The row's sequence length is stated to be the longest that fits."""
    return row.says("max.?seq", "status")


class KnownRuns:
    """Measured runs to complete other rows from."""

    def __init__(self, runs: Iterable[MeasuredRun]) -> None:
        """Index the runs by model and by repository."""
        self._by_model: dict[str, MeasuredRun] = {}
        self._by_repository: dict[str, list[MeasuredRun]] = {}
        for run in runs:
            self._by_model.setdefault(run.text("model").lower(), run)
            self._by_repository.setdefault(_repository(run), []).append(run)

    def case_of(self, row: MeasuredRun) -> Case:
        """The set-up of a row, completed.

        Raises:
            SpecError: what neither the row nor the runs say.
        """
        return case_of(MeasuredRun(self._completed(row)))

    def _completed(self, row: MeasuredRun) -> Mapping[str, str]:
        cells = {name: cell for name, cell in row.cells.items() if cell}
        model = self._by_model.get(row.text("model").lower())
        _fill(cells, model, SIZES)
        near = self._nearest(row)
        _fill(cells, near, CIRCUMSTANCES)
        if near is not None and near.text("method") == row.text("method"):
            _fill(cells, near, ("act_ckpt",))
        stated = re.search(r"\bckpt=(\w+)", row.text("notes"))
        if stated:
            cells["act_ckpt"] = stated[1]
        cells.setdefault("framework", _framework(row))
        # A GPU named by its memory alone: what it computes with does not matter for what fits.
        if size := re.fullmatch(r"(\d+)\s*GB\+? GPU", row.text("gpu")):
            cells |= {"gpu": "A100-80GB", "gpu_mem_gb": size[1]}
        return cells

    def _nearest(self, row: MeasuredRun) -> MeasuredRun | None:
        """The run of the same repository that has most in common with the row."""
        columns = ("source", "method", "n_gpus", "model", "gpu")

        def likeness(run: MeasuredRun) -> tuple[bool, ...]:
            return tuple(run.text(column) == row.text(column) for column in columns)

        return max(self._by_repository.get(_repository(row), ()), key=likeness, default=None)


def check_negative(case: Case) -> None:
    """Refuse a negative whose set-up is not stated well enough to blame a prediction.

    Raises:
        SpecError: why.
    """
    if not checkpointing_stated(case.run):
        with_and_without = [case.setup._replace(checkpointing=kind) for kind in ("none", "full")]
        if len({estimate_memory(setup).total_bytes > limit(setup) for setup in with_and_without}) > 1:
            raise SpecError("the verdict hangs on activation checkpointing, which is not stated")


def _fill(cells: dict[str, str], source: MeasuredRun | None, columns: Iterable[str]) -> None:
    for column in columns:
        if source is not None and (cell := source.text(column)):
            cells.setdefault(column, cell)


def _repository(run: MeasuredRun) -> str:
    return run.text("source").split("@")[0].lower()


def _framework(row: MeasuredRun) -> str:
    """The words that stand for the framework: before the colon of the notes, else notes, repository and ZeRO stage."""
    if named := re.match(r"([\w.+ -]+):", row.text("notes")):
        return named[1]
    return " ".join((row.text("notes"), _repository(row), row.text("zero_stage")))
