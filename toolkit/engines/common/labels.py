"""Which predictions count in the loss."""

import torch
from torch.nn.functional import pad

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
