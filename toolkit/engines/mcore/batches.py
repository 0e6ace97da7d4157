"""This rank's tokens of each micro-batch: the width that the layout needs, its part of it, and who sees whom."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from toolkit.engines.base import Batch
from toolkit.engines.common.labels import IGNORED, next_tokens
from toolkit.engines.common.rows import padded_on_the_left
from toolkit.engines.mcore.layers import shares_of_tokens
from toolkit.engines.mcore.place import Place
from toolkit.errors import EngineError


@dataclass(frozen=True)
class Tokens:
    """A micro-batch as the model takes it."""

    ids: torch.Tensor
    """Int64 [micro_batch, seq / cp]."""
    seen: torch.Tensor | None
    """Bool [micro_batch or 1, 1, seq / cp, seq]: the tokens that each of this rank's sees; None: all before it."""
    wanted: torch.Tensor
    """The next token of each of this rank's, or -100: int64 [micro_batch, seq / cp]."""
    own: torch.Tensor
    """Which tokens of the row these are: int64 [seq / cp]."""


class Cutter:
    """Cuts rows for one rank.

    Args:
        place: of the rank.
        device: where the tokens go.
        sequence_parallel: tensor-parallel ranks divide the tokens too.
    """

    def __init__(self, place: Place, device: torch.device, *, sequence_parallel: bool) -> None:
        self._place, self._device = place, device
        # Two blocks for each context-parallel rank, and each rank's tokens in equal parts for the tensor-parallel ones.
        self.multiple = (2 * place.num_cp if place.num_cp > 1 else 1) * (place.num_tp if sequence_parallel else 1)
        """What the width is a multiple of."""

    def of_batches(self, batches: Sequence[Batch]) -> list[Tokens]:
        """Rows to learn from or to measure, all micro-batches of a step in one size.

        In one size, because the stages of a pipeline have to know what they receive: Megatron's exchange of sizes
        needs NCCL (gloo fails with "op.preamble.length <= op.nbytes").

        Raises:
            EngineError: rows that are padded on the left; on every rank, before any of them waits for another.
        """
        if any(padded_on_the_left(batch["attention_mask"]) for batch in batches):
            raise EngineError("mcore: a row is padded on the left; pad rows on the right, or use engine=zero")
        rows = max(batch["input_ids"].shape[0] for batch in batches)
        width = self._filled(max(batch["input_ids"].shape[1] for batch in batches))
        return [self._tokens(batch, rows, width) for batch in batches]

    def of_prompts(self, ids: torch.Tensor, mask: torch.Tensor) -> Tokens:
        """Prompts that are padded on the left.

        Args:
            ids: int64 [rows, tokens].
            mask: of the same shape, 0 where a row is padded.
        """
        short = self._filled(ids.shape[1]) - ids.shape[1]
        ids, mask = pad(ids, (0, short)), pad(mask, (0, short))
        order = torch.arange(ids.shape[1])
        # A token of padding sees itself: a softmax over nothing is NaN.
        seen = ((order[:, None] >= order) & mask[:, None, :].bool()) | (order[:, None] == order)
        return self._cut(ids, torch.full_like(ids, IGNORED), seen[:, None])

    def _filled(self, width: int) -> int:
        return -(-width // self.multiple) * self.multiple

    def _tokens(self, batch: Batch, rows: int, width: int) -> Tokens:
        """Of a micro-batch that is filled up to so many rows and tokens."""
        given = batch["input_ids"].shape
        missing = (0, width - given[1], 0, rows - given[0])
        ids = pad(batch["input_ids"], missing)
        wanted = pad(next_tokens(batch["labels"]), missing, value=IGNORED)
        seen = None
        if "position_ids" in batch:
            # Positions begin again with every document. What fills the row up begins none and is nobody's target.
            documents = (pad(batch["position_ids"], missing, value=1) == 0).cumsum(1)
            order = torch.arange(width)
            seen = ((order[:, None] >= order) & (documents[:, :, None] == documents[:, None, :]))[:, None]
        return self._cut(ids, wanted, seen)

    def _cut(self, ids: torch.Tensor, wanted: torch.Tensor, seen: torch.Tensor | None) -> Tokens:
        """This rank's part; the rotation needs no position of a token in its document, only distances count."""
        cp, own = self._place.num_cp, torch.arange(ids.shape[1])
        if cp > 1:
            own = shares_of_tokens(ids.shape[1], cp, ids.device)[self._place.cp]
            everyone = torch.arange(ids.shape[1])
            seen = (own[:, None] >= everyone)[None, None] if seen is None else seen[:, :, own]
            ids, wanted = ids[:, own], wanted[:, own]
        return Tokens(self._moved(ids), None if seen is None else self._moved(seen), self._moved(wanted), own)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)
