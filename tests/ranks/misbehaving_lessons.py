"""What lessons can do wrong, for the tests of the pool that runs them."""

import os
import time

import torch

from toolkit.lessons.wire import Wire


def pass_on(wire: Wire, *, scale: float) -> tuple[int, float]:
    """Nothing wrong: this process, and what the rank on the left says."""
    if wire.world_size == 1:
        return os.getpid(), 0.0
    wire.send(torch.tensor([scale * wire.rank]), to=wire.right)
    return os.getpid(), wire.receive(torch.empty(1), source=wire.left).item()


def one_raises(wire: Wire) -> None:
    """Rank 1 fails while the other waits for it."""
    if wire.rank == 1:
        raise ValueError("layer 3 is not divisible")
    wire.receive(torch.empty(1), source=wire.left)


def one_waits(wire: Wire) -> None:
    """Rank 0 waits for what nobody sends."""
    if wire.rank == 0:
        wire.receive(torch.empty(1), source=1)


def one_sleeps(wire: Wire) -> None:
    """Rank 0 takes far too long."""
    if wire.rank == 0:
        time.sleep(600)


def one_dies(wire: Wire) -> None:
    """Rank 1 is gone without a word while the other waits for it."""
    if wire.rank == 1:
        os._exit(9)
    wire.receive(torch.empty(1), source=wire.left)
