"""The problem of the lessons about servers: its optimum and its curvature are known, so that errors can be measured."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shard:
    """One worker's rows."""

    x: torch.Tensor
    """[rows, inputs]."""
    y: torch.Tensor
    """[rows]."""

    def gradient(self, w: torch.Tensor) -> torch.Tensor:
        """Of half the mean squared error; of each row, where w is several runs, [runs, inputs]."""
        return (w @ self.x.T - self.y) @ self.x / len(self.y)


def make_shards(num_workers: int, *, drift: float = 0.0, rows: int = 40, inputs: int = 8) -> list[Shard]:
    """Equally many rows for each worker, of one rule; or of rules, and sizes of inputs, that differ by `drift`."""
    random = torch.Generator().manual_seed(0)
    rule = torch.randn(inputs, generator=random)
    shards = []
    for _ in range(num_workers):
        sizes = 1 + drift * (torch.rand(inputs, generator=random) - 0.5)
        x = torch.randn(rows, inputs, generator=random) * sizes
        noise = 0.1 * torch.randn(rows, generator=random)
        shards.append(Shard(x, x @ (rule + drift * torch.randn(inputs, generator=random)) + noise))
    return shards


def together(shards: list[Shard]) -> Shard:
    """All rows."""
    return Shard(torch.cat([one.x for one in shards]), torch.cat([one.y for one in shards]))


def optimum(shard: Shard) -> torch.Tensor:
    """Where the gradient is zero."""
    solution: torch.Tensor = torch.linalg.lstsq(shard.x, shard.y[:, None]).solution
    return solution[:, 0]


def curvature(shard: Shard) -> float:
    """Largest eigenvalue of the Hessian, X^T X / rows."""
    return float(torch.linalg.eigvalsh(shard.x.T @ shard.x / len(shard.y))[-1])
