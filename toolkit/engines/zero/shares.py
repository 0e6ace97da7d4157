"""What one rank of a replica computes on: whole micro-batches, or its part of every sequence (Ulysses)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from toolkit.engines.base import Batch
from toolkit.engines.ds.loss import IGNORED, next_tokens, num_supervised, padded_on_the_left
from toolkit.errors import EngineError


@dataclass(frozen=True)
class Share:
    """This rank's part of a micro-batch."""

    inputs: Mapping[str, torch.Tensor]
    """Of the model's forward pass, each int64 [micro_batch, tokens]."""
    wanted: torch.Tensor
    """The next token of each position, or -100: int64 [micro_batch, tokens]."""
    num_tokens: int
    """Tokens without padding."""

    @property
    def num_supervised(self) -> int:
        """Tokens whose prediction counts in the loss."""
        return num_supervised(self.wanted)


@dataclass(frozen=True)
class Shares:
    """Divides sequences over the ranks of a sequence-parallel group."""

    sp: int
    """Ranks that share a sequence."""
    rank: int
    """Which part is this rank's, 0 .. sp - 1."""

    def of(self, batch: Batch) -> Share:
        """This rank's part of a micro-batch; all of it where nothing is shared.

        Raises:
            EngineError: rows that are padded on the left, which causal attention over parts cannot leave out.
        """
        ids, mask, wanted = batch["input_ids"], batch["attention_mask"], next_tokens(batch["labels"])
        if self.sp == 1:
            seen = {"attention_mask": mask} if padded_on_the_left(mask) else {}
            return Share({"input_ids": ids, **seen}, wanted, int(mask.sum()))
        if padded_on_the_left(mask):
            raise EngineError(f"sp={self.sp}: a row is padded on the left; pad rows on the right, or use sp=1")
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        ids, positions, mask, wanted = map(self._part, (ids, positions, mask, wanted), (0, 0, 0, IGNORED))
        return Share({"input_ids": ids, "position_ids": positions}, wanted, int(mask.sum()))

    def _part(self, tensor: torch.Tensor, filler: int) -> torch.Tensor:
        """Of [micro_batch, seq], filled up on the right until every rank has as many tokens."""
        filled = pad(tensor, (0, -tensor.shape[1] % self.sp), value=filler)
        return filled.chunk(self.sp, dim=1)[self.rank]
