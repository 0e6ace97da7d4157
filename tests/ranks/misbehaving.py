"""What ranks can do wrong, for the tests of `procs`."""

import os
import time

import torch
import torch.distributed as dist


def add_up(scale: float) -> float:
    """Nothing wrong: the sum of (rank + 1) * scale."""
    total = torch.tensor((dist.get_rank() + 1) * scale)
    dist.all_reduce(total)
    return total.item() + dist.get_rank()


def one_raises() -> None:
    """Rank 1 fails while the other waits for it."""
    if dist.get_rank() == 1:
        raise ValueError("layer 3 is not divisible")
    dist.barrier()


def one_sleeps() -> None:
    """Rank 0 never comes to the collective."""
    if dist.get_rank() == 0:
        time.sleep(600)
    dist.barrier()


def one_dies() -> None:
    """Rank 1 is gone without a word while the others wait for it."""
    if dist.get_rank() == 1:
        os._exit(9)
    dist.barrier()


def leave_alone() -> int:
    """The body has ended the process group itself, as an engine does."""
    dist.destroy_process_group()
    return os.getpid()
