"""Which predictions count in the loss."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from toolkit.engines.base import Batch

IGNORED = -100
"""Label of a token whose prediction does not count."""


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """What each position must predict: labels [batch, seq] moved left by one, the last position ignored.

    Labels move, not the logits: slicing those would copy the largest tensor of the step.
    """
    return pad(labels[:, 1:], (0, 1), value=IGNORED)


def num_supervised(wanted: torch.Tensor) -> int:
    """Tokens of `next_tokens` whose prediction counts in the loss."""
    return int((wanted != IGNORED).sum())


def supervised_in(batches: Iterable[Batch]) -> int:
    """The same of whole micro-batches."""
    return sum(num_supervised(next_tokens(batch["labels"])) for batch in batches)


class Supervised(NamedTuple):
    """The tokens of a micro-batch whose prediction counts; there may be none."""

    rows: torch.Tensor
    """Where they are among all tokens, row after row: int64 [supervised]."""
    targets: torch.Tensor
    """What each must predict: int64 [supervised]."""


def supervised_tokens(wanted: torch.Tensor) -> Supervised:
    """Those of `next_tokens`; found on the CPU, as a GPU would be waited for.

    Args:
        wanted: [batch, seq].
    """
    rows = (wanted.flatten() != IGNORED).nonzero()[:, 0]
    return Supervised(rows, wanted.flatten()[rows])
