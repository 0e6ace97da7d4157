"""ZeRO: data parallelism whose optimizer states are cut into n parts, for the same bytes on the wire."""

from dataclasses import dataclass

import torch

from toolkit.lessons.collectives import all_gather, reduce_scatter, ring_all_reduce
from toolkit.lessons.data_parallel import flattened, unflattened
from toolkit.lessons.matrix_product import own
from toolkit.lessons.two_layers import Problem, loss_and_gradients, make_problem
from toolkit.lessons.wire import Wire


class Adam:
    """Adam's two moments of some weights, fp32."""

    def __init__(self, weights: torch.Tensor, *, rate: float) -> None:
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._rate, self._steps = rate, 0

    def update(self, gradient: torch.Tensor) -> torch.Tensor:
        """What the weights change by."""
        self._steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        mean, square = self.mean / (1 - 0.9**self._steps), self.square / (1 - 0.999**self._steps)
        return -self._rate * mean / (square.sqrt() + 1e-8)

    @property
    def nbytes(self) -> int:
        """Of both moments."""
        return self.mean.nbytes + self.square.nbytes


def replicated_step(wire: Wire, weights: torch.Tensor, gradient: torch.Tensor, *, adam: Adam) -> torch.Tensor:
    """ZeRO-0: all ranks add up all gradients, and all compute the same update of all weights."""
    return weights + adam.update(ring_all_reduce(wire, gradient))


def sharded_step(wire: Wire, weights: torch.Tensor, gradient: torch.Tensor, *, adam: Adam) -> torch.Tensor:
    """ZeRO-1 and 2: the two halves of the ring, and between them each rank updates its own part only."""
    gradients = list(gradient.tensor_split(wire.world_size))
    reduce_scatter(wire, gradients)
    parts = list(weights.tensor_split(wire.world_size))
    parts[wire.rank] = parts[wire.rank] + adam.update(gradients[wire.rank])
    all_gather(wire, parts)
    return torch.cat(parts)


@dataclass(frozen=True)
class Kept:
    """What one way of keeping Adam's states costs a rank."""

    state_bytes: int
    """On this rank."""
    sent_bytes: int
    """By this rank, all steps together."""
    difference: float
    """Largest difference from the weights of one process after all steps."""


def compare(wire: Wire, *, steps: int = 20, rate: float = 0.01) -> dict[str, Kept]:
    """Both, and the same steps in one process."""
    problem = make_problem()
    start = flattened(problem.weights)
    expected, adam = start, Adam(start, rate=rate)
    for _ in range(steps):
        expected = expected + adam.update(_gradient(problem, problem.x, problem.y, expected))
    found = {}
    for name, one_step, held in (
        ("all on every rank", replicated_step, start),
        ("a part on each", sharded_step, own(wire, start, 0)),
    ):
        weights, adam, before = start, Adam(held, rate=rate), wire.sent_bytes
        for _ in range(steps):
            gradient = _gradient(problem, own(wire, problem.x, 0), own(wire, problem.y, 0), weights)
            weights = one_step(wire, weights, gradient, adam=adam)
        found[name] = Kept(adam.nbytes, wire.sent_bytes - before, float((weights - expected).abs().max()))
    return found


def _gradient(problem: Problem, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    matrices = unflattened(weights, problem.weights)
    return flattened(loss_and_gradients(x, y, matrices, count=problem.y.numel())[1])
