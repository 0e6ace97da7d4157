"""What is measured must not be what is trained on: sources that read the same files, and rows that stand on both sides.

Rows of one file that are read in other columns, or in another split of a hub data set, are other rows.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as compute  # type: ignore[import-untyped]

from toolkit.data.mixing import Opened
from toolkit.data.source import open_source
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig, DataSource


def refuse_overlap(config: DataConfig) -> None:
    """Look which files the sources read, under whatever names.

    Raises:
        DataError: two sources of `train`, or `held_out` and one of them, read a file in the same way.
    """
    places = [_places(source) for source in config.sources]
    for (one, its), (other, others) in combinations(zip(config.sources, places, strict=True), 2):
        if (both := its & others) and _alike(one, other) and one.template == other.template:
            raise DataError(
                f"data.train: {one.label} and {other.label} both read {_first(both)}; name it once, with a `weight`"
            )
    held_out = config.held_out_source
    if held_out is None:
        return
    measured = _places(held_out)
    for source, its in zip(config.sources, places, strict=True):
        if (both := its & measured) and _alike(source, held_out):
            raise DataError(
                f"data.held_out: {held_out.source} and {source.label} of `train` both read {_first(both)}; give a file "
                "of its own, or leave `held_out` out and set `held_out_fraction`"
            )


def overlap_notes(
    sources: Sequence[Opened], trained: Sequence[np.ndarray], measured: Sequence[tuple[Opened, np.ndarray]]
) -> list[str]:
    """How many held-out rows have the tokens and labels of a training row; nothing if none has.

    Args:
        sources: of `train`.
        trained: numbers of the rows of each that are trained on.
        measured: sources with the numbers of their held-out rows.
    """
    if not measured:
        return []
    kept = pa.chunked_array([_digests(opened, rows) for opened, rows in measured])
    found = []
    for opened, rows in zip(sources, trained, strict=True):
        # Of the training rows only those that are alike are taken out of the file.
        alike = compute.is_in(opened.rows.data.column("digest"), value_set=kept).to_numpy()
        found.append(_digests(opened, rows[alike[rows]]))
    shared = compute.sum(compute.is_in(kept, value_set=pa.chunked_array(found))).as_py()
    told = (
        f"{shared} of {len(kept)} held-out rows have the tokens and labels of a training row, so their loss says "
        "little; `deduplicate: true` does not train on them"
    )
    return [told] if shared else []


def _digests(opened: Opened, rows: np.ndarray) -> pa.Array:
    return opened.rows.data.column("digest").take(pa.array(rows)).combine_chunks()


def _alike(one: DataSource, other: DataSource) -> bool:
    formats = {one.format, other.format}
    return (None in formats or len(formats) == 1) and (one.columns or {}) == (other.columns or {})


def _places(source: DataSource) -> frozenset[str]:
    if Path(source.source).expanduser().exists():
        return frozenset(str(file.resolve()) for file in open_source(source.source, "").files)
    return frozenset({f"split `{source.hub_split}` of {source.source}"})


def _first(places: frozenset[str]) -> str:
    further = f" and {len(places) - 1} further files" if len(places) > 1 else ""
    return f"{min(places)}{further}"
