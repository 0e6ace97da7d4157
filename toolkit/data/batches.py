"""Rows of token ids as tensors: padded, or several samples in one row."""

import math

import torch
from datasets import Dataset

from toolkit.data.encode import IGNORED

Batch = dict[str, torch.Tensor]
"""`input_ids`, `attention_mask`, `labels`: int64 [rows, seq]; padding has mask 0 and label -100. Packed rows have
`position_ids` too, which begin again with every sample and with the padding."""
Sample = tuple[list[int], list[int]]
"""Tokens and labels."""
PAD_MULTIPLE = 8
"""Widths are multiples of this: tensor cores want them, and fewer distinct widths mean fewer kernel choices."""
_GOLDEN = 2_654_435_769
"""2^32 divided by the golden ratio: multiples of it, modulo 2^32, fill the range evenly in any number."""


def samples_of(rows: Dataset, numbers: list[int]) -> list[Sample]:
    """Some rows of a prepared data set, in the order of the numbers."""
    if not numbers:
        return []
    chosen = rows[numbers]
    return list(zip(chosen["input_ids"], chosen["labels"], strict=True))


def spaced_rows(size: int, limit: int | None) -> list[int]:
    """Numbers of at most `limit` of `size` rows, ascending: one from each of as many equal stretches.

    Not the same place of each: where sources take turns, every second row would be of one of them.
    """
    count = size if limit is None else min(limit, size)
    edges = [place * size // max(count, 1) for place in range(count + 1)]
    steps = (place * _GOLDEN % 2**32 for place in range(count))
    return [low + (high - low) * step // 2**32 for low, high, step in zip(edges, edges[1:], steps, strict=False)]


def spaced(rows: Dataset, limit: int | None) -> Dataset:
    """Those rows of a prepared data set, as `spaced_rows` numbers them."""
    return rows.select(spaced_rows(len(rows), limit))


def right_padded(samples: list[Sample], *, size: int, pad: int) -> Batch:
    """A row for each, as wide as the longest needs, and stand-ins without a label up to `size` rows."""
    # A stand-in row attends to its own token: softmax over a fully masked row is NaN in some attention kernels.
    rows = samples + [([pad], [IGNORED])] * (size - len(samples))
    width = _width(max(len(ids) for ids, _ in rows))
    batch = {
        "input_ids": torch.full((size, width), pad),
        "attention_mask": torch.zeros((size, width), dtype=torch.int64),
        "labels": torch.full((size, width), IGNORED),
    }
    for index, (ids, labels) in enumerate(rows):
        batch["input_ids"][index, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][index, : len(ids)] = 1
        batch["labels"][index, : len(ids)] = torch.tensor(labels)
    return batch


def packed(packs: list[list[Sample]], *, size: int, pad: int) -> Batch:
    """A row for each pack, whose samples learn nothing of each other: none is asked to begin the next."""
    joined = [
        ([token for ids, _ in pack for token in ids], [label for _, own in pack for label in (IGNORED, *own[1:])])
        for pack in packs
    ]
    batch = right_padded(joined, size=size, pad=pad)
    positions = torch.arange(batch["input_ids"].shape[1]).repeat(size, 1)
    for row, pack in zip(positions, packs, strict=False):  # what is left are stand-ins
        lengths = [len(ids) for ids, _ in pack]
        for part in row.split([*lengths, len(row) - sum(lengths)]):
            part -= part[:1].clone()
    return {**batch, "position_ids": positions}


def left_padded(prompts: list[list[int]], *, size: int, pad: int) -> Batch:
    """As `right_padded`, without labels, for what is to be continued."""
    rows = prompts + [[pad]] * (size - len(prompts))
    width = _width(max(map(len, rows)))
    batch = {
        "input_ids": torch.full((size, width), pad),
        "attention_mask": torch.zeros((size, width), dtype=torch.int64),
    }
    for index, ids in enumerate(rows):
        batch["input_ids"][index, width - len(ids) :] = torch.tensor(ids)
        batch["attention_mask"][index, width - len(ids) :] = 1
    return batch


def _width(longest: int) -> int:
    return math.ceil(longest / PAD_MULTIPLE) * PAD_MULTIPLE
