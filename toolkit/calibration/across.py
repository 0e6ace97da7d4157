"""Seconds of a collective over links between machines, as a step of training meets it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from toolkit.calibration.ranks import Ranks

COMPUTED = 640
"""Width of the product that a processor computes between two operations, 3 ms at 0.17 TFLOP/s."""
_MOST_CALLS = 32


class Own(NamedTuple):
    """The group that a rank is in."""

    group: dist.ProcessGroup
    members: tuple[int, ...]


def seconds_across(
    ranks: Ranks, own: Own | None, operation: Callable[[], object], *, allowed: float, one_way: bool
) -> float:
    """Mean seconds of one call, from when a group's last rank comes, in the slowest group; a collective of all ranks.
    The operation has run before, and so has connected.

    Of the operation alone, in turns with a product as in a step: a link's time is too long, and varies too much, to be
    the difference of two others. The mean, as a step calls it many times. In turns each rank comes a product later
    than the others, for in a step they never come at once, and gloo's all-gather of two ranks is slower then: where
    one's bytes are under way before it has said that it is ready for the other's, this word waits behind them (20 MiB
    at 100 Mb/s: 0.88 s at its best, 1.32 s else).

    Args:
        ranks: all of them.
        own: group of this rank; None where it has nothing to do.
        operation: to be timed.
        allowed: seconds for all calls; two are made in any case.
        one_way: some ranks only send, and are through before the others have anything: the slowest counts, and they
            start together.
    """
    square, taken = torch.ones(COMPUTED, COMPUTED), list[float]()

    def timed() -> None:
        dist.barrier()
        is_late = own is not None and own.members[len(taken) % len(own.members)] == ranks.rank
        for _ in range(2 if is_late and not one_way else 1):
            torch.mm(square, square)
        began = time.perf_counter()
        operation()
        taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    timed()
    once = ranks.slowest(time.perf_counter() - began)
    for _ in range(max(1, min(_MOST_CALLS, int(allowed / once)) - 1)):
        timed()
    seconds = torch.tensor(taken, dtype=torch.float64)
    if own is None:
        seconds.zero_()
    elif not one_way:
        dist.all_reduce(seconds, op=dist.ReduceOp.MIN, group=own.group)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds.mean())
