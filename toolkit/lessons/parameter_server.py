"""A parameter server: rank 0 has the weights, the others compute on copies of them and send back changes."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from toolkit.lessons.wire import Wire

Work = Callable[[torch.Tensor], torch.Tensor]
"""What a worker makes of the weights: a change to them."""


@dataclass
class History:
    """What the server saw; the workers' stay empty."""

    weights: list[torch.Tensor] = field(default_factory=list)
    """Before the first update and after each."""
    seconds: list[float] = field(default_factory=list)
    """When, by the clock that all processes share."""
    staleness: list[int] = field(default_factory=list)
    """Of each update: how many others came between the weights that it is from and itself."""

    def add(self, weights: torch.Tensor) -> None:
        """They are these from now on."""
        self.weights.append(weights)
        self.seconds.append(time.monotonic())


def synchronous(wire: Wire, weights: torch.Tensor, work: Work, *, rounds: int) -> History:
    """The server waits for all workers, and adds the mean of their changes."""
    history, workers = History(), range(1, wire.world_size)
    history.add(weights)
    for _ in range(rounds):
        if wire.rank > 0:
            wire.send(work(wire.receive(weights, source=0)), to=0)
            continue
        for worker in workers:
            wire.send(weights, to=worker)
        changes = [wire.receive(weights, source=worker) for worker in workers]
        weights = weights + torch.stack(changes).mean(0)
        history.add(weights)
        history.staleness.append(0)
    return history


def asynchronous(wire: Wire, weights: torch.Tensor, work: Work, *, updates: int) -> History:
    """The server adds each change as it comes, whatever the weights have become in the meantime."""
    history, num_workers = History(), wire.world_size - 1
    history.add(weights)
    nothing = torch.full_like(weights, torch.nan)
    if wire.rank > 0:
        while not (given := wire.receive(weights, source=0)).isnan().any():
            wire.send(work(given), to=0)
        return history
    version_of = dict.fromkeys(range(1, wire.world_size), 0)
    for worker in version_of:
        wire.send(weights, to=worker)
    for version in range(updates):
        change, worker = wire.receive_first(weights)
        weights = weights + change / num_workers
        history.add(weights)
        history.staleness.append(version - version_of[worker])
        version_of[worker] = version + 1
        wire.send(weights, to=worker)
    for _ in version_of:
        wire.send(nothing, to=wire.receive_first(weights)[1])
    return history


def delayed(wire: Wire, weights: torch.Tensor, work: Work, *, updates: int, delay: int) -> History:
    """As asynchronous, with the workers in turn and `delay` changes always under way: each is so many updates old."""
    history, under_way = History(), deque[int]()
    history.add(weights)
    for update in range(updates):
        worker = 1 + update % (wire.world_size - 1)
        if wire.rank == worker:
            wire.send(work(wire.receive(weights, source=0)), to=0)
        if wire.rank == 0:
            wire.send(weights, to=worker)
            under_way.append(worker)
            if len(under_way) > delay:
                weights = weights + wire.receive(weights, source=under_way.popleft())
                history.add(weights)
                history.staleness.append(delay)
    for worker in under_way:
        wire.receive(weights, source=worker)
    return history


def largest_stable_rate(curvature: float, delay: int) -> float:
    """Beyond it w[t+1] = w[t] - rate curvature w[t - delay] grows: 2 sin(pi / (4 delay + 2)) / curvature.

    On the border a root of z^(delay+1) - z^delay + rate curvature has length 1: z = exp(i pi / (2 delay + 1)).
    """
    return 2 * math.sin(math.pi / (4 * delay + 2)) / curvature
