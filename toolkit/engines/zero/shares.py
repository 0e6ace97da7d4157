"""What one rank of a replica computes on: whole micro-batches, or its part of every sequence (Ulysses)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad

from toolkit.engines.base import Batch
from toolkit.engines.common.labels import IGNORED, Supervised, next_tokens, num_supervised, supervised_tokens
from toolkit.engines.common.rows import flash_bounds, noise_of, padded_on_the_left, positions_of
from toolkit.errors import EngineError
from toolkit.models.neftune import Noise


@dataclass(frozen=True)
class Share:
    """This rank's part of a micro-batch."""

    inputs: Mapping[str, torch.Tensor]
    """Of the model's forward pass, each int64 [micro_batch, tokens]."""
    wanted: torch.Tensor
    """The next token of each position, or -100: int64 [micro_batch, tokens]."""
    num_tokens: int
    """Tokens without padding."""
    bounds: Mapping[str, torch.Tensor | int] = field(default_factory=dict)
    """Further arguments of the forward pass: where the documents of packed rows begin, for FlashAttention."""
    documents: torch.Tensor | None = None
    """Position ids of the whole packed rows, of which `inputs` has this rank's part."""
    noise: Noise | None = None
    """Of whole rows too."""
    part: tuple[int, int] | None = None
    """First token of every row that `inputs` has, and the one after its last; None: it has all."""

    @property
    def num_supervised(self) -> int:
        """Tokens whose prediction counts in the loss."""
        return num_supervised(self.wanted)

    @property
    def supervised(self) -> Supervised:
        """Which those are, and what each must predict."""
        return supervised_tokens(self.wanted)

    def arguments(self, device: torch.device) -> dict[str, torch.Tensor | int]:
        """Of the model's forward pass, tensors on their device."""
        given = {**self.inputs, **self.bounds}
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in given.items()
        }


@dataclass(frozen=True)
class Shares:
    """Divides sequences over the ranks of a sequence-parallel group."""

    sp: int
    """Ranks that share a sequence."""
    rank: int
    """Which part is this rank's, 0 .. sp - 1."""
    flash: bool = False
    """Attention is FlashAttention, which has to be told where the documents of packed rows begin; not with sp."""

    def of(self, batch: Batch) -> Share:
        """This rank's part of a micro-batch; all of it where nothing is shared.

        Raises:
            EngineError: rows that are padded on the left, which causal attention over parts cannot leave out.
        """
        ids, mask, wanted = batch["input_ids"], batch["attention_mask"], next_tokens(batch["labels"])
        if self.sp == 1:
            kept = {"attention_mask": mask} if padded_on_the_left(mask) else {}
            if "position_ids" in batch:
                kept["position_ids"] = batch["position_ids"]
            bounds = flash_bounds(batch["position_ids"]) if self.flash and "position_ids" in batch else {}
            return Share({"input_ids": ids, **kept}, wanted, int(mask.sum()), bounds, noise=noise_of(batch))
        if padded_on_the_left(mask):
            raise EngineError(f"sp={self.sp}: a row is padded on the left; pad rows on the right, or use sp=1")
        whole = self._filled(positions_of(batch), 0)
        ids, mask, wanted = map(self._part, (ids, mask, wanted), (0, 0, IGNORED))
        inputs = {"input_ids": ids, "position_ids": self._part(whole, 0)}
        documents = whole if "position_ids" in batch else None
        noise, width = noise_of(batch), ids.shape[1]
        if noise is not None:
            noise = noise._replace(lengths=self._filled(noise.lengths, 0))
        part = (self.rank * width, (self.rank + 1) * width)
        return Share(inputs, wanted, int(mask.sum()), documents=documents, noise=noise, part=part)

    def _filled(self, tensor: torch.Tensor, filler: int) -> torch.Tensor:
        """[micro_batch, seq] with so much on the right that every rank has as many tokens."""
        return pad(tensor, (0, -tensor.shape[1] % self.sp), value=filler)

    def _part(self, tensor: torch.Tensor, filler: int) -> torch.Tensor:
        return self._filled(tensor, filler).chunk(self.sp, dim=1)[self.rank]
