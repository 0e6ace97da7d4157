"""Gradients in fewer bytes: the largest numbers only, or a product of two thin matrices; what is left out waits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from toolkit.lessons.collectives import all_gather, ring_all_reduce
from toolkit.lessons.matrix_product import own
from toolkit.lessons.wire import Wire

Average = Callable[[Wire, torch.Tensor], torch.Tensor]
"""From each rank's gradient to their sum, or nearly."""


class TopK:
    """One number in `keep_one_in`, by magnitude, with its place (1809.07599)."""

    def __init__(self, *, keep_one_in: int, feedback: bool) -> None:
        self._keep_one_in, self._feedback = keep_one_in, feedback
        self._left: torch.Tensor | None = None

    def __call__(self, wire: Wire, gradient: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks of what each sends."""
        wanted = gradient.flatten() if self._left is None else gradient.flatten() + self._left
        places = wanted.abs().topk(wanted.numel() // self._keep_one_in).indices
        # The bits of the places, as if they were numbers: one message instead of two.
        parts = [torch.stack([wanted[places], places.int().view(torch.float32)])] * wire.world_size
        all_gather(wire, parts)
        if self._feedback:
            self._left = wanted.index_fill(0, places, 0.0)  # error feedback: later is better than never
        total = torch.zeros_like(wanted)
        for values, addresses in parts:
            total.index_add_(0, addresses.view(torch.int32), values)
        return total.view_as(gradient)


class LowRank:
    """PowerSGD (1905.13727): [rows, columns] as P Q^T with `rank` columns each, from last step's Q on."""

    def __init__(self, *, rank: int, feedback: bool) -> None:
        self._rank, self._feedback = rank, feedback
        self._left: torch.Tensor | None = None
        self._q: torch.Tensor | None = None

    def __call__(self, wire: Wire, gradient: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, as near as so few columns come."""
        wanted = gradient if self._left is None else gradient + self._left
        if self._q is None:
            self._q = torch.randn(gradient.shape[1], self._rank, generator=torch.Generator().manual_seed(0))
        p, _ = torch.linalg.qr(ring_all_reduce(wire, wanted @ self._q))
        self._q = ring_all_reduce(wire, wanted.T @ p)
        total: torch.Tensor = p @ self._q.T
        if self._feedback:
            self._left = wanted - total / wire.world_size
        return total


def compressors() -> dict[str, Average]:
    """Fresh ones, by name."""
    return {
        "all of it": ring_all_reduce,
        "top 1 in 32, the rest dropped": TopK(keep_one_in=32, feedback=False),
        "top 1 in 32, error feedback": TopK(keep_one_in=32, feedback=True),
        "rank 2, the rest dropped": LowRank(rank=2, feedback=False),
        "rank 2, error feedback": LowRank(rank=2, feedback=True),
    }


@dataclass(frozen=True)
class Compressed:
    """Training with one of them."""

    losses: list[float]
    """Mean squared error of all rows, as a part of that at the start, before each step."""
    sent_bytes: int
    """By this rank, per step."""


def compare(wire: Wire, *, steps: int = 100, rate: float = 0.5, size: int = 64) -> dict[str, Compressed]:
    """Data-parallel gradient descent on one [size, size] matrix, with each."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(256, size, generator=random) / torch.arange(1, size + 1) ** 0.5
    y = x @ torch.randn(size, size, generator=random)
    own_x, own_y = own(wire, x, 0), own(wire, y, 0)
    found = {}
    for name, summed in compressors().items():
        w, before, losses = torch.zeros(size, size), wire.sent_bytes, []
        for _ in range(steps):
            losses.append(float((x @ w - y).square().sum() / y.square().sum()))
            w = w - rate * summed(wire, own_x.T @ (own_x @ w - own_y) / len(x))
        found[name] = Compressed(losses, (wire.sent_bytes - before) // steps)
    return found
