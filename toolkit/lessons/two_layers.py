"""The network that most lessons train: two layers, with the gradient written out, so that nothing happens unseen."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Problem:
    """Rows to learn, and the weights to begin with."""

    x: torch.Tensor
    """Inputs, [rows, inputs]."""
    y: torch.Tensor
    """What is wanted, [rows, outputs]."""
    weights: list[torch.Tensor]
    """[inputs, hidden] and [hidden, outputs]."""


def make_problem(*, rows: int = 61, inputs: int = 16, hidden: int = 32, outputs: int = 8, seed: int = 0) -> Problem:
    """What another network of the same shape says of random inputs; 61 rows, so that no two ranks share evenly."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=random)
    teacher, student = (
        [
            torch.randn(inputs, hidden, generator=random) / inputs**0.5,
            torch.randn(hidden, outputs, generator=random) / hidden**0.5,
        ]
        for _ in range(2)
    )
    return Problem(x, torch.tanh(x @ teacher[0]) @ teacher[1], student)


def loss_and_gradients(
    x: torch.Tensor, y: torch.Tensor, weights: list[torch.Tensor], *, count: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Squared error of these rows and its gradients, divided by `count`, the numbers in y of the whole batch."""
    w1, w2 = weights
    hidden = torch.tanh(x @ w1)
    error = hidden @ w2 - y
    d_output = 2 * error / count
    d_hidden = d_output @ w2.T * (1 - hidden**2)
    return error.square().sum() / count, [x.T @ d_hidden, hidden.T @ d_output]


def descend(problem: Problem, *, steps: int, rate: float) -> tuple[list[float], list[torch.Tensor]]:
    """Gradient descent in one process: the loss before each step, and the weights after all."""
    weights, losses = [w.clone() for w in problem.weights], []
    for _ in range(steps):
        loss, gradients = loss_and_gradients(problem.x, problem.y, weights, count=problem.y.numel())
        losses.append(float(loss))
        for w, gradient in zip(weights, gradients, strict=True):
            w -= rate * gradient
    return losses, weights


@dataclass(frozen=True)
class Descent:
    """Gradient descent on several ranks beside the same in one process."""

    losses: list[float]
    """Of the ranks together, before each step."""
    alone: list[float]
    """Of one process."""
    difference: float
    """Largest difference between their weights after all steps."""
    sent_bytes: int
    """By this rank, all steps together."""


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Over all numbers of all tensors."""
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
