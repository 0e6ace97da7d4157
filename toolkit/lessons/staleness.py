"""What it does to gradient descent that a gradient is of weights which are no more."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toolkit.lessons.least_squares import curvature, make_shards, optimum, together
from toolkit.lessons.parameter_server import asynchronous, delayed, largest_stable_rate, synchronous
from toolkit.lessons.wire import Wire


@dataclass(frozen=True)
class Race:
    """A run with a slow worker, as one rank saw it."""

    busy: list[tuple[float, float]]
    """When this worker computed: begin and end, seconds of the clock that all processes share."""
    seconds: list[float]
    """Of the server: when its weights became what they are."""
    distances: list[float]
    """Of the server: from the optimum, at these times; 1 is where the run began."""
    staleness: list[int]
    """Of the server's updates."""


def race(wire: Wire, *, kind: str, updates: int, device_seconds: Sequence[float], rate: float = 0.05) -> Race:
    """Synchronous or asynchronous, on workers whose devices take so long for a gradient."""
    shards = make_shards(wire.world_size - 1)
    best, start = optimum(together(shards)), torch.zeros(shards[0].x.shape[1])
    busy: list[tuple[float, float]] = []

    def work(weights: torch.Tensor) -> torch.Tensor:
        begin = time.monotonic()
        change = -rate * shards[wire.rank - 1].gradient(weights)
        time.sleep(device_seconds[wire.rank - 1])
        busy.append((begin, time.monotonic()))
        return change

    if kind == "synchronous":
        history = synchronous(wire, start, work, rounds=updates)
    else:
        history = asynchronous(wire, start, work, updates=updates)
    distances = [float((w - best).norm() / best.norm()) for w in history.weights]
    return Race(busy, history.seconds, distances, history.staleness)


@dataclass(frozen=True)
class Stability:
    """Gradient descent with old gradients."""

    delay: int
    """How many updates old."""
    rates: list[float]
    """Times the curvature: 2 is where descent without delay ends."""
    distances: list[list[float]]
    """[rate][update]: from the optimum, 1 where it began; empty but on the server."""
    border: float
    """The largest stable rate by the formula, times the curvature."""


def late(wire: Wire, *, delays: list[int], rates: list[float], updates: int) -> list[Stability]:
    """Every delay with every rate, all workers on the same rows; the rates are rows of one [rates, inputs] matrix."""
    every = together(make_shards(wire.world_size - 1))
    best, factors = optimum(every), torch.tensor(rates)[:, None] / curvature(every)

    def work(weights: torch.Tensor) -> torch.Tensor:
        return -factors * every.gradient(weights)

    found = []
    for delay in delays:
        history = delayed(wire, torch.zeros(len(rates), len(best)), work, updates=updates, delay=delay)
        server = history.weights if wire.rank == 0 else []
        distances = [((weights - best).norm(dim=1) / best.norm()).tolist() for weights in server]
        by_rate = [list(one) for one in zip(*distances, strict=True)]
        found.append(Stability(delay, rates, by_rate, largest_stable_rate(1.0, delay)))
    return found
