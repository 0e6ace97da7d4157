"""A rank that runs out of memory says which one it is, what takes the most by the plan, and what takes less."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from toolkit.errors import OutOfMemory
from toolkit.planner.plan import Plan
from toolkit.planner.relief import expected_memory, less_memory

_SIGNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""In the messages of CUDA and NCCL, of torch's allocator on the CPU, and of cuBLAS."""


@contextlib.contextmanager
def memory_fault(plan: Plan, folder: Path, *, rank: int, place: Callable[[], str]) -> Iterator[None]:
    """Tell an allocation that failed from other faults.

    Args:
        plan: of the run.
        folder: of the run.
        rank: this one.
        place: where the run is, in words.

    Raises:
        OutOfMemory: memory was short on this rank.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS)):
            raise
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OutOfMemory(
            f"rank {rank} on {socket.gethostname()} ran out of memory {place()}: {cause}"
            f"\n{expected_memory(plan)}\n{less_memory(plan, folder)}"
        ) from error
