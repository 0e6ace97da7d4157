"""The documents in the rows of a batch."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from toolkit.data.encode import IGNORED


class Span(NamedTuple):
    """Where a document lies."""

    row: int
    """Of the batch."""
    start: int
    """First token."""
    stop: int
    """Token after the last one."""


def documents(batch: Mapping[str, torch.Tensor]) -> Iterator[Span]:
    """One per sample; the stand-ins of a short batch are none."""
    positions = batch.get("position_ids")
    for row, mask in enumerate(batch["attention_mask"]):
        length = int(mask.sum())
        starts = [0] if positions is None else torch.nonzero(positions[row, :length] == 0).flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], length], strict=True):
            if stop - start > 1 or int(batch["labels"][row, start]) != IGNORED:
                yield Span(row, start, stop)


def digest(tokens: torch.Tensor) -> str:
    """Tells a document from others.

    Args:
        tokens: int64 [length].
    """
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]
