"""Tensor parallelism: every rank sees all rows, and has a part of every matrix (Megatron-LM, 1909.08053)."""

import torch

from toolkit.lessons.collectives import ring_all_reduce
from toolkit.lessons.matrix_product import gathered, own
from toolkit.lessons.two_layers import Descent, Problem, descend, largest_difference, make_problem
from toolkit.lessons.wire import Wire


def divided_loss_and_gradients(
    wire: Wire, problem: Problem, weights: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Columns of the first matrix, rows of the second: between them nothing is sent, after them one all-reduce."""
    x, y = problem.x, problem.y
    w1_columns, w2_rows = weights
    hidden = torch.tanh(x @ w1_columns)  # this rank's neurons, and no other rank needs them
    error = ring_all_reduce(wire, hidden @ w2_rows) - y
    d_output = 2 * error / y.numel()
    d_hidden = d_output @ w2_rows.T * (1 - hidden**2)
    # A layer below would need d_hidden @ w1_columns.T added up over the ranks: the all-reduce of the way back.
    return error.square().sum() / y.numel(), [x.T @ d_hidden, hidden.T @ d_output]


def tensor_parallel(wire: Wire, *, steps: int = 25, rate: float = 0.5) -> Descent:
    """Each rank updates its own part: gradients are never sent."""
    problem = make_problem()
    weights = [own(wire, problem.weights[0], 1).clone(), own(wire, problem.weights[1], 0).clone()]
    losses = []
    for _ in range(steps):
        loss, gradients = divided_loss_and_gradients(wire, problem, weights)
        losses.append(float(loss))
        for w, gradient in zip(weights, gradients, strict=True):
            w -= rate * gradient
    sent = wire.sent_bytes
    whole = [
        gathered(wire, part, like=like, dim=dim)
        for part, like, dim in zip(weights, problem.weights, (1, 0), strict=True)
    ]
    alone, expected = descend(problem, steps=steps, rate=rate)
    return Descent(losses, alone, largest_difference(whole, expected), sent)
