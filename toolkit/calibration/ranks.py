"""The process group that is measured: set up as for training, plus the agreement that measuring needs."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from typing_extensions import Self

from toolkit.errors import MachineError

# A rank may compile DeepSpeed's Adam while the others wait.
_TIMEOUT = timedelta(minutes=10)

BLOCK_SECONDS = 0.004
"""Operations are timed in blocks at least this long: starting a block together costs 20 to 100 us on gloo."""
MOST_BLOCKS = 15
"""More repetitions do not move a median by more than its noise."""
PASSES = 3
"""Shapes and sizes are gone through this often and the fastest pass counts, of collectives of processors or of several
hosts the middle: what disturbs the machine for a second slows one pass only. Beside a busy program one pass saw a
product at half its rate, a message at 40 times its latency."""
BORROWED_SHARES = 4
"""How many shares of the time one item may cost: large shapes and sizes take what the many small ones leave."""


@dataclass(frozen=True)
class Ranks:
    """This rank among those that measure together. Every method that returns a number is a collective."""

    rank: int
    """0 .. world_size - 1."""
    world_size: int
    """Number of ranks."""
    device: torch.device
    """Where this rank computes."""
    local_rank: int = 0
    """0 .. per_node - 1; without other hosts the rank itself does as well."""
    per_node: int = 1
    """Ranks on each machine."""

    @classmethod
    def join(cls, kind: str, folder: Path) -> Self:
        """Join the group over a file in the scratch folder: nccl for GPUs, gloo for processors.

        Raises:
            MachineError: torch sees no GPU, or too few.
        """
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = torch.device("cpu")
        if kind == "cuda":
            if torch.cuda.device_count() < world_size:
                seen = torch.cuda.device_count()
                raise MachineError(
                    f"{world_size} GPUs are to be measured, torch {torch.__version__} sees {seen}; "
                    "install a torch with CUDA for this driver, or set CUDA_VISIBLE_DEVICES= (empty) to measure the CPU"
                )
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            init_method=f"file://{(folder / 'store').resolve()}",
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
            device_id=device if kind == "cuda" else None,
        )
        return cls(rank, world_size, device, rank, world_size)

    @classmethod
    def meet(cls, kind: str) -> Self:
        """Join the group of all hosts' ranks, at the place that the environment names."""
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        device = torch.device("cuda", local_rank) if kind == "cuda" else torch.device("cpu")
        if kind == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo", timeout=_TIMEOUT, device_id=device if kind == "cuda" else None
        )
        return cls(rank, dist.get_world_size(), device, local_rank, int(os.environ["LOCAL_WORLD_SIZE"]))

    def slowest(self, value: float) -> float:
        """The largest value of all ranks, the same on every rank, so that all decide alike."""
        values = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values.item()

    def finish_kernels(self) -> None:
        """Wait until the device has done what it was given; a CPU always has."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_of(self, operation: Callable[[], object], *, allowed: float) -> float:
        """Median seconds of one call while all ranks call it, on the slowest rank.

        The first call warms up (allocation, choice of kernels) and is not counted. At least 3 repetitions are, more as
        `allowed` seconds permit; short operations repeat in blocks, so that the clock and the start do not count.
        """
        self._block(operation, 1)
        once = self.slowest(self._block(operation, 1))
        calls = max(1, min(1000, int(BLOCK_SECONDS / once) + 1))
        blocks = max(3, min(MOST_BLOCKS, int(allowed / (calls * once)) - 2))
        return self.slowest(median(self._block(operation, calls) for _ in range(blocks)))

    def _block(self, operation: Callable[[], object], calls: int) -> float:
        """Seconds per call, started together by all ranks."""
        dist.barrier()
        self.finish_kernels()
        began = time.perf_counter()
        for _ in range(calls):
            operation()
        self.finish_kernels()
        return (time.perf_counter() - began) / calls


class TimeBox:
    """Seconds of one section, shared out over its passes and their items; what one leaves, those after it may use."""

    def __init__(self, ranks: Ranks, seconds: float, *, items_per_pass: int) -> None:
        self._ranks, self._seconds, self._items_per_pass = ranks, seconds, items_per_pass
        self._began = time.perf_counter()
        self._taken = 0

    def share(self) -> float:
        """Seconds for the next item, the same on all ranks; a collective. 0 or less: the time is over.

        The last item of a pass may use all that its pass has left, so the dearest comes last.
        """
        elapsed = self._ranks.slowest(time.perf_counter() - self._began)
        passes_over, item = divmod(self._taken, self._items_per_pass)
        self._taken += 1
        until_end_of_pass = self._seconds * (passes_over + 1) / PASSES - elapsed
        return until_end_of_pass / (self._items_per_pass - item)
