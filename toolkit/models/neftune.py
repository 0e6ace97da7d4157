"""NEFTune (2310.05914): uniform noise on the embeddings of training rows, the same in every layout.

A row's noise is drawn from a seed of its own, which follows from the run's seed, the step and the row: whoever computes
the row, or a part of it, draws the same, and a run that goes on draws what it would have drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Noise(NamedTuple):
    """What the noise of a micro-batch follows from."""

    seeds: torch.Tensor
    """Of each whole row: int64 [rows]."""
    lengths: torch.Tensor
    """Tokens of the document that a token is of, 0 for padding: int64 [rows, seq]. A row that is not packed is one
    document, as long as the row without its padding: the paper's L."""

    def on(self, hidden: torch.Tensor, *, alpha: float, part: tuple[int, int] | None = None) -> torch.Tensor:
        """Embeddings with noise of up to alpha / sqrt(L x hidden size) on every number of every token.

        Args:
            hidden: [rows, tokens, hidden size].
            alpha: of the paper, 5 to 15 there.
            part: first token that `hidden` has of every row and the one after its last; without it all.
        """
        width = hidden.shape[-1]
        noise = torch.zeros(*self.lengths.shape, width, device=hidden.device)
        for row, (seed, lengths) in enumerate(zip(self.seeds.tolist(), self.lengths.to(hidden.device), strict=True)):
            there = lengths > 0
            # As many as there are tokens: padding, which differs between layouts, takes none.
            draw = torch.Generator(hidden.device).manual_seed(seed)
            drawn = torch.rand(int(there.sum()), width, generator=draw, device=hidden.device)
            largest = alpha / (lengths[there] * width).sqrt()
            noise[row, there] = (2 * drawn - 1) * largest[:, None]
        start, stop = part or (0, hidden.shape[1])
        return hidden + noise[:, start:stop].to(hidden.dtype)


def document_lengths(positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`Noise.lengths` of whole rows.

    Args:
        positions: position ids [rows, seq], which begin again with every document.
        mask: 0 for padding.
    """
    documents = (positions == 0).cumsum(1)
    counts = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.int64).scatter_add_(1, documents, mask)
    return counts.gather(1, documents) * mask


class NoisyEmbedding:
    """Adds noise to what an embedding gives in training, where it is asked to.

    Args:
        embedding: of the model, as the engine has made it.
        alpha: of the paper.
    """

    def __init__(self, embedding: torch.nn.Module, alpha: float) -> None:
        self._alpha = alpha
        self._noise: Noise | None = None
        self._part: tuple[int, int] | None = None
        embedding.register_forward_hook(self._add)

    @contextmanager
    def adding(self, noise: Noise | None, part: tuple[int, int] | None) -> Iterator[None]:
        """For as long as the context lasts; None adds nothing."""
        self._noise, self._part = noise, part
        try:
            yield
        finally:
            self._noise = None

    def _add(self, embedding: torch.nn.Module, _: Any, hidden: torch.Tensor) -> torch.Tensor:
        if self._noise is None or not embedding.training:
            return hidden
        return self._noise.on(hidden, alpha=self._alpha, part=self._part)
