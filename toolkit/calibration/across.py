"""Seconds of a collective over links between machines, as a step of training meets it."""

import time
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import NamedTuple

import torch
import torch.distributed as dist

from toolkit.calibration.ranks import Ranks

COMPUTED = 640
"""Width of the product that a processor computes between two operations, 3 ms at 0.17 TFLOP/s."""
_MOST_CALLS = 32
_FEWEST_CALLS = 4
"""Two where they take longer than a second."""


class Own(NamedTuple):
    """The group that a rank is in."""

    group: dist.ProcessGroup
    members: tuple[int, ...]


def middle_mean(seconds: Sequence[float]) -> float:
    """Mean of the middle half; of all where there are fewer than four.

    A step calls a collective many times, some slower as a rank comes later: no median. One that stood still, as TCP
    does for 0.2 s where a packet is lost, once made 28 ms of 8 in the mean of all.
    """
    left_out = len(seconds) // 4
    return mean(sorted(seconds)[left_out : len(seconds) - left_out])


def seconds_across(
    ranks: Ranks, own: Own | None, operation: Callable[[], object], *, allowed: float, one_way: bool
) -> list[float]:
    """Seconds of each call, from when a group's last rank comes to when the last one has it, in the slowest group;
    a collective of all ranks. The operation has run before, and so has connected.

    Of the operation alone, in turns with a product as in a step: a link's time is too long, and varies too much, to be
    the difference of two others. In turns each rank comes a product later than the others, for in a step they never
    come at once, and gloo's all-gather of two ranks is slower then: where one's bytes are under way before it has said
    that it is ready for the other's, this word waits behind them (20 MiB at 100 Mb/s: 0.88 s at its best, 1.32 s else).
    What the others wait for it is no part of the time.

    Args:
        ranks: all of them.
        own: group of this rank; None where it has nothing to do.
        operation: to be timed.
        allowed: seconds for all calls; four are made in any case, two of those that take long.
        one_way: some ranks only send, and are through before the others have anything: they start together.
    """
    square, taken, products = torch.ones(COMPUTED, COMPUTED), list[float](), list[float]()

    def timed() -> None:
        dist.barrier()
        began = time.perf_counter()
        torch.mm(square, square)
        products.append(time.perf_counter() - began)
        if is_late(len(taken)):
            torch.mm(square, square)
        began = time.perf_counter()
        operation()
        taken.append(time.perf_counter() - began)

    def is_late(call: int) -> bool:
        return own is not None and not one_way and own.members[call % len(own.members)] == ranks.rank

    began = time.perf_counter()
    timed()
    once = ranks.slowest(time.perf_counter() - began)
    fewest = _FEWEST_CALLS if _FEWEST_CALLS * once < 1.0 else 2
    for _ in range(max(fewest, min(_MOST_CALLS, int(allowed / once))) - 1):
        timed()
    waited = 0.0 if one_way else median(products)
    own_seconds = [max(0.0, one - (0.0 if is_late(call) else waited)) for call, one in enumerate(taken)]
    seconds = torch.tensor(own_seconds if own is not None else [0.0] * len(taken), dtype=torch.float64)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return [float(one) for one in seconds]
