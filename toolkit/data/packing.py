"""Packing: several short rows in one row of seq_len tokens, so that next to nothing is padding.

Rows are placed by best-fit decreasing: longest first, each where it leaves the least room. That needs at most 11/9 of
the fewest possible rows (Johnson 1974), and with the many short rows of real data about as few as possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as compute  # type: ignore[import-untyped]
from datasets import Dataset

_STRETCH = 1 << 20
"""Rows whose lengths are Python's numbers at a time."""


@dataclass(frozen=True)
class Packs:
    """Which rows share a packed row, and in which order."""

    rows: np.ndarray
    """Numbers of the rows, pack by pack: int64 [all rows]."""
    starts: np.ndarray
    """Where in `rows` each pack begins, and the end of the last one: int64 [packs + 1]."""
    tokens: np.ndarray
    """Of each pack: int64 [packs]."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, number: int) -> list[int]:
        """The rows of a pack, in order."""
        members: list[int] = self.rows[self.starts[number] : self.starts[number + 1]].tolist()
        return members


def pack(lengths: Sequence[int] | np.ndarray, *, capacity: int) -> Packs:
    """Place rows by best-fit decreasing; equal lengths in the order of the rows, so the result is always the same.

    Args:
        lengths: tokens of each row, 1 .. capacity.
        capacity: tokens of a packed row.

    Raises:
        ValueError: a row is longer than a packed one, or has no token.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and not (sizes.min() > 0 and sizes.max() <= capacity):
        raise ValueError(f"rows have {sizes.min()} to {sizes.max()} tokens, a packed row takes 1 to {capacity}")
    longest_first = np.argsort(-sizes, kind="stable")
    pack_of = np.empty(sizes.size, dtype=np.int64)
    """Of each place in `longest_first`; lists of a pack's rows would take some 80 bytes per row."""
    room: list[list[int]] = [[] for _ in range(capacity + 1)]
    """Packs by the tokens that they still take."""
    count = 0
    has_room = 0  # bit r is set where room[r] is not empty: the tightest fit is one shift and one lowest bit away
    for start in range(0, sizes.size, _STRETCH):
        for place, size in enumerate(sizes[longest_first[start : start + _STRETCH]].tolist(), start):
            fitting = has_room >> size
            if fitting:
                tightest = size + (fitting & -fitting).bit_length() - 1
                number = room[tightest].pop()
                if not room[tightest]:
                    has_room ^= 1 << tightest
            else:
                tightest, number, count = capacity, count, count + 1
            pack_of[place] = number
            if left := tightest - size:
                room[left].append(number)
                has_room |= 1 << left
    flat = longest_first[np.argsort(pack_of, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(pack_of, minlength=count))])
    return Packs(flat, starts, np.diff(np.concatenate([[0], np.cumsum(sizes[flat])])[starts]))


def token_counts(rows: Dataset) -> np.ndarray:
    """Tokens of each row: int64 [rows]."""
    counts = [
        compute.list_value_length(batch["input_ids"]).to_numpy()
        for batch in rows.select_columns("input_ids").with_format("arrow").iter(batch_size=1000)
    ]
    return np.concatenate(counts).astype(np.int64) if counts else np.empty(0, dtype=np.int64)
