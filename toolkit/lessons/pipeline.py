"""Pipeline parallelism: a layer per rank; micro-batches go through, so that more than one rank has something to do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from toolkit.lessons.schedules import SCHEDULES, Action, Span
from toolkit.lessons.wire import Wire


@dataclass(frozen=True)
class Batch:
    """What the ends of the pipeline know: the first the inputs, the last what is wanted."""

    x: Sequence[torch.Tensor]
    """Per micro-batch, [rows, width]."""
    y: Sequence[torch.Tensor]
    """Likewise."""
    count: int
    """Numbers in y, all micro-batches together."""


@dataclass
class Stage:
    """One rank's layer, y = tanh(x w), and what it keeps of each micro-batch until its backward pass."""

    w: torch.Tensor
    """[width, width]."""
    device_seconds: float
    """Beside the product itself, a forward pass waits so long as for a device, a backward pass twice as long."""
    d_w: torch.Tensor = field(init=False)
    """Gradient of w, added up over the micro-batches."""
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Inputs and outputs of the micro-batches that are under way."""
    most_kept: int = 0
    """At any time."""

    def forward(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Output of micro-batch i."""
        y = torch.tanh(x @ self.w)
        self.kept[i] = (x, y)
        self.most_kept = max(self.most_kept, len(self.kept))
        time.sleep(self.device_seconds)
        return y

    def backward(self, i: int, d_y: torch.Tensor) -> torch.Tensor:
        """Gradient of its input; that of the weights is added up."""
        x, y = self.kept.pop(i)
        d_z = d_y * (1 - y**2)
        self.d_w += x.T @ d_z
        time.sleep(2 * self.device_seconds)
        return d_z @ self.w.T


def one_step(wire: Wire, stage: Stage, actions: Sequence[Action], *, batch: Batch) -> tuple[torch.Tensor, list[Span]]:
    """All actions in their order; (loss, summed on the last stage, and what happened when)."""
    first, last = wire.rank == 0, wire.rank == wire.world_size - 1
    stage.d_w, loss, errors, spans = torch.zeros_like(stage.w), torch.zeros(()), {}, []
    for direction, i in actions:
        if direction == "forward":
            x = batch.x[i] if first else wire.receive(batch.x[i], source=wire.left)
            begin = time.monotonic()
            y = stage.forward(i, x)
            spans.append(Span(direction, i, begin, time.monotonic()))
            if last:
                errors[i] = y - batch.y[i]
                loss += errors[i].square().sum() / batch.count
            else:
                wire.send(y, to=wire.right)
        else:
            d_y = 2 * errors.pop(i) / batch.count if last else wire.receive(batch.x[i], source=wire.right)
            begin = time.monotonic()
            d_x = stage.backward(i, d_y)
            spans.append(Span(direction, i, begin, time.monotonic()))
            if not first:
                wire.send(d_x, to=wire.left)
    return loss, spans


@dataclass(frozen=True)
class Pipelined:
    """Gradient descent through a pipeline beside the same in one process."""

    losses: list[float]
    """Before each step; on the last stage, elsewhere zeros."""
    alone: list[float]
    """Of one process, by torch's own gradients."""
    difference: float
    """Largest difference of this stage's weights after all steps."""
    spans: list[Span]
    """Of the last step."""
    most_kept: int
    """Micro-batches whose activations this stage held at once."""
    sent_bytes: int
    """By this rank, per step."""


def pipelined(
    wire: Wire, *, schedule: str = "1F1B", num_micro: int = 8, steps: int = 1, device_seconds: float = 0.0
) -> Pipelined:
    """Train a chain of as many layers as there are ranks on 48 rows."""
    random, width, rate = torch.Generator().manual_seed(0), 16, 1.0
    x = torch.randn(48, width, generator=random)
    teacher, layers = (
        [torch.randn(width, width, generator=random) / width**0.5 for _ in range(wire.world_size)] for _ in range(2)
    )
    y = _chain(x, teacher)
    batch = Batch(x.tensor_split(num_micro), y.tensor_split(num_micro), y.numel())
    stage = Stage(layers[wire.rank].clone(), device_seconds)
    actions = SCHEDULES[schedule](wire.rank, wire.world_size, num_micro)
    losses: list[float] = []
    spans: list[Span] = []
    for _ in range(steps):
        loss, spans = one_step(wire, stage, actions, batch=batch)
        losses.append(float(loss))
        stage.w -= rate * stage.d_w
    alone, expected = _descend(x, y, layers, steps=steps, rate=rate)
    difference = float((stage.w - expected[wire.rank]).abs().max())
    return Pipelined(losses, alone, difference, spans, stage.most_kept, wire.sent_bytes // steps)


def _chain(x: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
    for w in layers:
        x = torch.tanh(x @ w)
    return x


def _descend(
    x: torch.Tensor, y: torch.Tensor, layers: Sequence[torch.Tensor], *, steps: int, rate: float
) -> tuple[list[float], list[torch.Tensor]]:
    losses, weights = [], [w.clone().requires_grad_() for w in layers]
    for _ in range(steps):
        loss = (_chain(x, weights) - y).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, weights)
        weights = [(w - rate * d_w).detach().requires_grad_() for w, d_w in zip(weights, gradients, strict=True)]
    return losses, [w.detach() for w in weights]
