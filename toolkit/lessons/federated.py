"""Federated averaging (1602.05629): a synchronous server whose workers take several steps before they answer."""

from dataclasses import dataclass

import torch

from toolkit.lessons.least_squares import Shard, make_shards, optimum, together
from toolkit.lessons.parameter_server import Work, synchronous
from toolkit.lessons.wire import Wire


def local_steps(shard: Shard, *, num_steps: int, rate: float) -> Work:
    """So many steps of gradient descent on a worker's own rows; one of them is what a parameter server is sent."""

    def work(weights: torch.Tensor) -> torch.Tensor:
        moved = weights
        for _ in range(num_steps):
            moved = moved - rate * shard.gradient(moved)
        return moved - weights

    return work


@dataclass(frozen=True)
class Averaged:
    """A run, as the server saw it; the workers' lists are empty."""

    distances: list[float]
    """From the optimum of all rows, before the first round and after each; 1 is where the run began."""
    difference: float
    """Largest difference from gradient descent on all rows in one process after as many steps as rounds."""
    sent_bytes: int
    """By this rank, per round."""


def average(wire: Wire, *, num_steps: int, drift: float = 0.0, rounds: int = 40, rate: float = 0.1) -> Averaged:
    """Workers whose rows follow one rule, or rules that differ by `drift`."""
    shards = make_shards(wire.world_size - 1, drift=drift)
    every, start = together(shards), torch.zeros(shards[0].x.shape[1])
    best = optimum(every)
    work = local_steps(shards[wire.rank - 1], num_steps=num_steps, rate=rate)
    history = synchronous(wire, start, work, rounds=rounds)
    alone = start
    for _ in range(rounds):
        alone = alone - rate * every.gradient(alone)
    return Averaged(
        [float((w - best).norm() / best.norm()) for w in history.weights] if wire.rank == 0 else [],
        float((history.weights[-1] - alone).abs().max()) if wire.rank == 0 else 0.0,
        wire.sent_bytes // rounds,
    )
