"""Batches in an order that no layout changes: step s of a run trains on the same rows on 1 rank or 64.

A row is a sample, or several that were packed; what is said of rows here holds for both.

The epoch's permutation depends on (seed, epoch) alone; step s takes the next global_batch rows of it; who computes
which of these is a matter of their lengths (balance.py). Any step can be asked for: to resume is to start at a number.
"""

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from datasets import Dataset

from toolkit.data.balance import dealt, divided, imbalance
from toolkit.data.batches import Batch, Sample, left_padded, packed, right_padded, samples_of
from toolkit.data.digests import fingerprint
from toolkit.data.encode import SampleEncoder
from toolkit.data.packing import Packs, token_counts

_BATCHES_SORTED = 50


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

    def all_rows(self, count: int) -> list[int]:
        """Positions, of `count`, of this rank's rows in their order."""
        return [position for micro in range(self.grad_accum) for position in self.rows(micro, count)]

    def rows(self, micro: int, count: int) -> range:
        """Positions, of `count`, of this rank's micro-batch number `micro`; fewer than micro_batch at the end."""
        start = (micro * self.dp + self.dp_rank) * self.micro_batch
        return range(min(start, count), min(start + self.micro_batch, count))


@final
class GlobalBatches:
    """This rank's micro-batches of any optimizer step.

    Args:
        rows: prepared samples.
        share: this rank's.
        seed: of the order.
        pad_token_id: fills rows up.
        packs: which samples share a row; without them each has its own.
        grouped: put rows of about one length into a batch.
    """

    def __init__(
        self,
        rows: Dataset,
        share: Share,
        *,
        seed: int,
        pad_token_id: int,
        packs: Packs | None = None,
        grouped: bool = False,
    ) -> None:
        self._given, self._rows, self._packs = rows, _tokens_of(rows), packs
        self._lengths = token_counts(rows) if packs is None else packs.tokens
        self._share, self._seed, self._pad, self._grouped = share, seed, pad_token_id, grouped
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))
        self._noised = False

    def with_noise_seeds(self) -> "GlobalBatches":
        """The same batches with `noise_seeds`, int64 [micro_batch]: of each row in this step, in any layout."""
        noised = copy.copy(self)
        noised._noised = True
        return noised

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows; the last one may hold fewer rows."""
        return math.ceil(len(self._lengths) / self._share.global_batch)

    def fingerprint(self) -> str:
        """Tells these rows from any others, from the same in another order, and from other packs of them."""
        packs = () if self._packs is None else (self._packs.rows, self._packs.starts)
        return fingerprint(self._given, *packs) + (" grouped" if self._grouped else "")

    def step(self, index: int, counts: Sequence[int] | None = None) -> list[Batch]:
        """Micro-batches of step `index` (from 0, over all epochs), each as wide as its longest row needs.

        Where an epoch's last global batch is short, rows of one padding token without a label stand in, so every rank
        has its micro_batch rows and the mean over all supervised tokens stays that of the real rows. A micro-batch
        may hold nothing else: divide by the global batch's tokens, never by a micro-batch's own.

        Args:
            index: of the step.
            counts: micro-batches of each replica, dp x grad_accum together; without them each has grad_accum.
        """
        numbers = self._numbers(index)
        shares = [[numbers[place] for place in places] for places in self._own_places(numbers, counts)]
        batches = [self._micro_batch(share) for share in shares]
        if self._noised:
            for batch, share in zip(batches, shares, strict=True):
                batch["noise_seeds"] = self._noise_seeds(index, share)
        return batches

    def row_numbers(self, index: int) -> list[int]:
        """Rows of the data set in the global batch of step `index`, in order; those of all its packs."""
        numbers = self._numbers(index)
        return numbers if self._packs is None else [row for number in numbers for row in self._packs.of(number)]

    def imbalance(self, num_steps: int) -> tuple[float, float]:
        """Mean over the first steps of max / mean - 1 of the ranks' tokens; as it is, and in the order of the rows."""
        ours, plain = [], []
        for index in range(min(num_steps, self.steps_per_epoch)):
            numbers = self._numbers(index)
            lengths = self._lengths[numbers].tolist()
            ranks = zip(*self._division(numbers), strict=True)
            ours.append(imbalance([sum(lengths[place] for micro in rank for place in micro) for rank in ranks]))
            shares = (replace(self._share, dp_rank=rank) for rank in range(self._share.dp))
            plain.append(imbalance([sum(lengths[place] for place in share.all_rows(len(numbers))) for share in shares]))
        return statistics.fmean(ours), statistics.fmean(plain)

    def _numbers(self, index: int) -> list[int]:
        """Rows, or packs, of the global batch of step `index`, in order; at most global_batch."""
        epoch, step = divmod(index, self.steps_per_epoch)
        size = self._share.global_batch
        if self._order[0] != epoch:
            order = epoch_order(len(self._lengths), seed=self._seed, epoch=epoch)
            if self._grouped:
                order = grouped_order(order, self._lengths, global_batch=size, seed=self._seed, epoch=epoch)
            self._order = (epoch, order)
        numbers: list[int] = self._order[1][step * size : (step + 1) * size].tolist()
        return numbers

    def _own_places(self, numbers: list[int], counts: Sequence[int] | None) -> list[list[int]]:
        """Of this rank's rows among the numbers, by micro-batch."""
        share = self._share
        if counts is None or len(set(counts)) == 1:
            return [ranks[share.dp_rank] for ranks in self._division(numbers)]
        lengths = self._lengths[numbers].tolist()
        return dealt(lengths, micro_batch=share.micro_batch, counts=counts)[share.dp_rank]

    def _division(self, numbers: list[int]) -> list[list[list[int]]]:
        share = self._share
        return divided(
            self._lengths[numbers].tolist(), dp=share.dp, micro_batch=share.micro_batch, grad_accum=share.grad_accum
        )

    def _micro_batch(self, numbers: list[int]) -> Batch:
        size = self._share.micro_batch
        if self._packs is None:
            return right_padded(samples_of(self._rows, numbers), size=size, pad=self._pad)
        return packed(self._packed_samples(self._packs, numbers), size=size, pad=self._pad)

    def _noise_seeds(self, index: int, numbers: list[int]) -> torch.Tensor:
        """Of each row in a step; stand-ins, of which nothing is asked, have 0."""
        seeds = [np.random.SeedSequence((self._seed, index, number)).generate_state(1, np.uint64) for number in numbers]
        drawn = [int(seed[0] >> np.uint64(1)) for seed in seeds]
        return torch.tensor(drawn + [0] * (self._share.micro_batch - len(drawn)))

    def _packed_samples(self, packs: Packs, numbers: list[int]) -> list[list[Sample]]:
        members = [packs.of(number) for number in numbers]
        samples = iter(samples_of(self._rows, [row for each in members for row in each]))
        return [[next(samples) for _ in each] for each in members]


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of the rows in an epoch, int64 [num_rows]."""
    return torch.randperm(num_rows, generator=_generator(seed, epoch))


def grouped_order(
    order: torch.Tensor, lengths: np.ndarray, *, global_batch: int, seed: int, epoch: int
) -> torch.Tensor:
    """The same rows with those of about one length in a batch, and the batches in random order.

    As `group_by_length` of transformers has it: rows are sorted within stretches of 50 batches.

    Args:
        order: of the epoch.
        lengths: tokens of each row.
        global_batch: rows per step.
        seed: of the run.
        epoch: whose order it is.
    """
    stretch = _BATCHES_SORTED * global_batch
    rows = order.numpy()
    parts = [rows[start : start + stretch] for start in range(0, len(rows), stretch)]
    by_length = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    whole = len(rows) // global_batch
    # A short batch stays the last one of the epoch.
    batches = by_length[: whole * global_batch].reshape(whole, global_batch)
    mixed = batches[torch.randperm(whole, generator=_generator(seed, -epoch - 1)).numpy()]
    return torch.from_numpy(np.concatenate([mixed.reshape(-1), by_length[whole * global_batch :]]))


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Not seed + epoch: seed 0's second epoch would be seed 1's first.
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def eval_batches(rows: Dataset, share: Share, *, pad_token_id: int) -> list[Batch]:
    """This rank's share of the rows for their loss; as many batches of equal size on every rank."""
    tokens, size = _tokens_of(rows), share.micro_batch
    shares = [share.rows(micro, len(rows)) for micro in range(math.ceil(len(rows) / (share.dp * size)))]
    return [right_padded(samples_of(tokens, list(own)), size=size, pad=pad_token_id) for own in shares]


@dataclass(frozen=True)
class PromptBatches:
    """This rank's share of the prompts; rows of the batches beyond `prompts` only fill up."""

    batches: Sequence[Batch]
    """`input_ids` and `attention_mask`, padded on the left; as many batches on every rank."""
    numbers: Sequence[int]
    """Place of each prompt among those of all ranks."""
    prompts: Sequence[str]
    """Prompts as text, special tokens written out, in the order of the rows."""
    answers: Sequence[str]
    """The first answer of each row, as in the data."""


def answered(rows: Dataset) -> Dataset:
    """The rows that ask something: those of plain text do not."""
    return rows.select([number for number, answer in enumerate(rows["answer"]) if answer is not None])


def prompt_batches(rows: Dataset, share: Share, *, encoder: SampleEncoder, pad_token_id: int) -> PromptBatches | None:
    """Prompts of the `answered` rows, up to their first answer; None if there are none.

    A row whose prompt alone fills seq_len is no part of the prepared rows, so every prompt here is whole.
    """
    asked = answered(rows)
    if not len(asked):
        return None
    batches, prompts, answers = [], [], []
    places: list[int] = []
    for micro in range(math.ceil(len(asked) / (share.dp * share.micro_batch))):
        positions = list(share.rows(micro, len(asked)))
        chosen = asked[positions] if positions else {"input_ids": [], "prompt_length": [], "answer": []}
        ids = [row[:end] for row, end in zip(chosen["input_ids"], chosen["prompt_length"], strict=True)]
        batches.append(left_padded(ids, size=share.micro_batch, pad=pad_token_id))
        places += positions
        prompts += [encoder.template.tokenizer.decode(each) for each in ids]
        answers += chosen["answer"]
    return PromptBatches(batches, places, prompts, answers)


def _tokens_of(rows: Dataset) -> Dataset:
    return rows.select_columns(["input_ids", "labels"])
