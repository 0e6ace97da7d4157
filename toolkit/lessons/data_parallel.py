"""Data parallelism: all weights on every rank, other rows; one all-reduce of the gradients per step."""

import torch

from toolkit.lessons.collectives import ring_all_reduce
from toolkit.lessons.matrix_product import own
from toolkit.lessons.two_layers import Descent, descend, largest_difference, loss_and_gradients, make_problem
from toolkit.lessons.wire import Wire


def flattened(tensors: list[torch.Tensor]) -> torch.Tensor:
    """All numbers end to end: one message instead of many."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def unflattened(flat: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors again."""
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


def data_parallel(wire: Wire, *, steps: int = 25, rate: float = 0.5) -> Descent:
    """Each rank's gradient is a summand of the whole one, as each divides by the rows of all ranks."""
    problem = make_problem()
    x, y, weights = own(wire, problem.x, 0), own(wire, problem.y, 0), [w.clone() for w in problem.weights]
    losses = []
    for _ in range(steps):
        loss, gradients = loss_and_gradients(x, y, weights, count=problem.y.numel())
        summed = ring_all_reduce(wire, flattened([*gradients, loss]))
        *gradients, loss = unflattened(summed, [*gradients, loss])
        losses.append(float(loss))
        for w, gradient in zip(weights, gradients, strict=True):
            w -= rate * gradient
    alone, expected = descend(problem, steps=steps, rate=rate)
    return Descent(losses, alone, largest_difference(weights, expected), wire.sent_bytes)
