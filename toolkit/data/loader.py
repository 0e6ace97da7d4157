"""Batches in an order that no layout changes: step s of a run trains on the same rows on 1 rank or 64.

The epoch's permutation depends on (seed, epoch) alone; step s takes the next global_batch rows of it; micro-batch m of
data rank r takes rows [m*dp*mb + r*mb, +mb) of these. Any step can be asked for, so resuming is starting at a number.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from datasets import Dataset

from toolkit.data.encode import IGNORED, SampleEncoder

Batch = dict[str, torch.Tensor]
"""`input_ids`, `attention_mask`, `labels`: int64 [rows, seq]; padding has mask 0 and label -100."""
_SAMPLE_ROWS = 1000
PAD_MULTIPLE = 8
"""Widths are multiples of this: tensor cores want them, and fewer distinct widths mean fewer kernel choices."""


@dataclass(frozen=True)
class Share:
    """Which part of every global batch a data rank gets."""

    dp: int
    """Data-parallel replicas."""
    dp_rank: int
    """This replica, 0 .. dp - 1."""
    micro_batch: int
    """Rows per forward pass."""
    grad_accum: int = 1
    """Forward passes per optimizer step."""

    @property
    def global_batch(self) -> int:
        """Rows per optimizer step over all replicas."""
        return self.dp * self.micro_batch * self.grad_accum

    def rows(self, micro: int, count: int) -> range:
        """Positions, of `count`, of this rank's micro-batch number `micro`; fewer than micro_batch at the end."""
        start = (micro * self.dp + self.dp_rank) * self.micro_batch
        return range(min(start, count), min(start + self.micro_batch, count))


@final
class GlobalBatches:
    """This rank's micro-batches of any optimizer step."""

    def __init__(self, rows: Dataset, share: Share, *, seed: int, pad_token_id: int) -> None:
        self._rows = _tokens_of(rows)
        self._share = share
        self._seed = seed
        self._pad = pad_token_id
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows; the last one may hold fewer rows."""
        return math.ceil(len(self._rows) / self._share.global_batch)

    def fingerprint(self) -> str:
        """Tells these rows from others, or in another order, by their number and a sample of them."""
        count = len(self._rows)
        sample = sorted({place * count // _SAMPLE_ROWS for place in range(_SAMPLE_ROWS)})
        return hashlib.sha256(f"{count} {_fetch(self._rows, sample)}".encode()).hexdigest()[:16]

    def step(self, index: int) -> list[Batch]:
        """grad_accum micro-batches of step `index` (from 0, over all epochs), each as wide as its longest row needs.

        Where an epoch's last global batch is short, rows of one padding token without a label stand in, so every rank
        has its micro_batch rows and the mean over all supervised tokens stays that of the real rows. A micro-batch
        may hold nothing else: divide by the global batch's tokens, never by a micro-batch's own.
        """
        rows = self.row_numbers(index)
        micros = [self._share.rows(micro, len(rows)) for micro in range(self._share.grad_accum)]
        return [self._micro_batch([rows[position] for position in micro]) for micro in micros]

    def row_numbers(self, index: int) -> list[int]:
        """Rows of the data set in the global batch of step `index`, in order; at most global_batch."""
        epoch, step = divmod(index, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self._rows), seed=self._seed, epoch=epoch))
        size = self._share.global_batch
        numbers: list[int] = self._order[1][step * size : (step + 1) * size].tolist()
        return numbers

    def _micro_batch(self, numbers: list[int]) -> Batch:
        return _right_padded(_fetch(self._rows, numbers), size=self._share.micro_batch, pad=self._pad)


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of the rows in an epoch, int64 [num_rows]."""
    # Not seed + epoch: seed 0's second epoch would be seed 1's first.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(num_rows, generator=generator)


def eval_batches(rows: Dataset, share: Share, *, pad_token_id: int, limit: int | None = None) -> list[Batch]:
    """This rank's share of the first `limit` rows for their loss; as many batches of equal rows on every rank."""
    tokens = _tokens_of(rows)
    count = len(rows) if limit is None else min(limit, len(rows))
    return [
        _right_padded(_fetch(tokens, list(share.rows(micro, count))), size=share.micro_batch, pad=pad_token_id)
        for micro in range(math.ceil(count / (share.dp * share.micro_batch)))
    ]


@dataclass(frozen=True)
class PromptBatches:
    """This rank's share of the prompts; rows of the batches beyond `prompts` only fill up."""

    batches: Sequence[Batch]
    """`input_ids` and `attention_mask`, padded on the left; as many batches on every rank."""
    prompts: Sequence[str]
    """Prompts as text, special tokens written out, in the order of the rows."""
    answers: Sequence[str]
    """The first answer of each row, as in the data."""


def prompt_batches(
    rows: Dataset, share: Share, *, encoder: SampleEncoder, pad_token_id: int, limit: int | None = None
) -> PromptBatches | None:
    """Prompts of the first `limit` rows up to their first answer, to generate from; None for plain text.

    A row whose prompt alone fills seq_len is no part of the prepared rows, so every prompt here is whole.
    """
    asked = [number for number, answer in enumerate(rows["answer"]) if answer is not None][:limit]
    if not asked:
        return None
    batches, prompts, answers = [], [], []
    for micro in range(math.ceil(len(asked) / (share.dp * share.micro_batch))):
        numbers = [asked[position] for position in share.rows(micro, len(asked))]
        chosen = rows[numbers] if numbers else {"input_ids": [], "prompt_length": [], "answer": []}
        ids = [row[:end] for row, end in zip(chosen["input_ids"], chosen["prompt_length"], strict=True)]
        batches.append(_left_padded(ids, size=share.micro_batch, pad=pad_token_id))
        prompts += [encoder.template.tokenizer.decode(each) for each in ids]
        answers += chosen["answer"]
    return PromptBatches(batches, prompts, answers)


_Row = tuple[list[int], list[int]]


def _tokens_of(rows: Dataset) -> Dataset:
    return rows.select_columns(["input_ids", "labels"])


def _fetch(rows: Dataset, numbers: list[int]) -> list[_Row]:
    if not numbers:
        return []
    chosen = rows[numbers]
    return list(zip(chosen["input_ids"], chosen["labels"], strict=True))


def _right_padded(rows: list[_Row], *, size: int, pad: int) -> Batch:
    # A stand-in row attends to its own token: softmax over a fully masked row is NaN in some attention kernels.
    rows = rows + [([pad], [IGNORED])] * (size - len(rows))
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


def _left_padded(rows: list[list[int]], *, size: int, pad: int) -> Batch:
    rows = rows + [[pad]] * (size - len(rows))
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
