"""What engines read off the rows of a batch before they compute on them."""

import torch

from toolkit.engines.base import Batch
from toolkit.models.neftune import Noise, document_lengths


def padded_on_the_left(mask: torch.Tensor) -> bool:
    """Whether a row of an attention mask [micro_batch, seq] begins with padding.

    What is padded on the right needs no mask: causal attention does not look there, what comes of padding is not
    supervised, and without a mask attention takes its fastest kernels.
    """
    return bool((mask[:, 1:] > mask[:, :-1]).any())


def positions_of(batch: Batch) -> torch.Tensor:
    """Position ids [micro_batch, seq] of rows that are padded on the right, or packed."""
    ids = batch["input_ids"]
    return batch.get("position_ids", torch.arange(ids.shape[1]).repeat(ids.shape[0], 1))


def noise_of(batch: Batch) -> Noise | None:
    """What the noise on the rows follows from; None where none is asked for."""
    if "noise_seeds" not in batch:
        return None
    return Noise(batch["noise_seeds"], document_lengths(positions_of(batch), batch["attention_mask"]))


def flash_bounds(positions: torch.Tensor) -> dict[str, torch.Tensor | int]:
    """Where documents begin, as `transformers` hands it to FlashAttention: all rows end to end, int32 [documents + 1].

    Left to itself it reads the boundaries off the position ids of a micro-batch of one row only (5.23,
    `_is_packed_sequence`), and copies them from the device in every layer; in larger ones documents see each other.

    Args:
        positions: position ids [micro_batch, seq] of packed rows, in host memory.
    """
    begins = (positions.flatten() == 0).nonzero().flatten()
    bounds = torch.cat([begins, torch.tensor([positions.numel()])]).to(torch.int32)
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
