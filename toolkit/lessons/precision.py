"""Training in 16 bits: what vanishes, what overflows, what is lost when it is added, and what helps."""

from dataclasses import dataclass

import torch

from toolkit.lessons.two_layers import Problem, make_problem

NUM_MICRO = 2**14
"""Micro-batches of a step; the loss of each is divided by the numbers of all, as in a run with a large batch."""


@dataclass
class DynamicScale:
    """Half of it after an overflow, twice after so many steps without one."""

    value: float
    patience: int = 25
    _calm: int = 0

    def after(self, *, finite: bool) -> None:
        """A step whose gradients were all finite, or not."""
        self._calm = self._calm + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._calm == self.patience:
            self.value, self._calm = 2 * self.value, 0


def gradients_in(
    dtype: torch.dtype, problem: Problem, weights: list[torch.Tensor], *, scale: float
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """(loss, gradients in fp32 and without the scale, gradient of the hidden layer as it was computed)."""
    x, w1, w2 = problem.x.to(dtype), weights[0].to(dtype), weights[1].to(dtype)
    hidden = torch.tanh(x @ w1)
    error = (hidden @ w2).float() - problem.y
    d_output = (scale * 2 * error / (NUM_MICRO * error.numel())).to(dtype)
    d_hidden = d_output @ w2.T * (1 - hidden**2)
    # All micro-batches of the step are this one: their sum, in fp32, is so many times its gradient.
    gradients = [NUM_MICRO * one.float() / scale for one in (x.T @ d_hidden, hidden.T @ d_output)]
    return error.square().mean(), gradients, d_hidden


@dataclass(frozen=True)
class Trained:
    """A run in some precision."""

    losses: list[float]
    """Before each step."""
    scales: list[float]
    """Of the loss, at each step."""
    num_skipped: int
    """Steps whose gradients overflowed."""
    unchanged: list[float]
    """Part of the weights that were after the step what they were before it, 0 to 1."""


def train(dtype: torch.dtype, *, scale: DynamicScale, keep: torch.dtype = torch.float32, steps: int = 300) -> Trained:
    """Gradient descent whose products are in `dtype`, and whose weights are kept in `keep`."""
    problem = make_problem(rows=256)
    weights = [w.to(keep) for w in problem.weights]
    losses, scales, unchanged, skipped = [], [], [], 0
    for _ in range(steps):
        loss, gradients, _ = gradients_in(dtype, problem, weights, scale=scale.value)
        losses.append(float(loss))
        scales.append(scale.value)
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        skipped += not finite
        if finite:
            before = [w.clone() for w in weights]
            weights = [(w - 0.25 * gradient).to(keep) for w, gradient in zip(weights, gradients, strict=True)]
            same = sum(int((w == old).sum()) for w, old in zip(weights, before, strict=True))
            unchanged.append(same / sum(w.numel() for w in weights))
        scale.after(finite=finite)
    return Trained(losses, scales, skipped, unchanged)


@dataclass(frozen=True)
class Magnitudes:
    """Gradients of the hidden layer at the start."""

    exponents: list[float]
    """log2 of their magnitudes in fp32, before the loss is scaled."""
    scale: float
    """Of the loss."""
    vanished: float
    """Part of them that is 0 in fp16 at that scale, 0 to 1."""


def magnitudes(*, scale: float) -> Magnitudes:
    """What of the gradients is left in fp16."""
    problem = make_problem(rows=256)
    exact = gradients_in(torch.float32, problem, problem.weights, scale=1.0)[2]
    rounded = gradients_in(torch.float16, problem, problem.weights, scale=scale)[2]
    exponents = exact.abs().flatten().log2()
    return Magnitudes(exponents[exponents.isfinite()].tolist(), scale, float((rounded == 0).float().mean()))
