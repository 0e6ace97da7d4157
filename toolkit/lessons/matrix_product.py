"""Y = X W on n ranks: what each holds, and what it has to be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from toolkit.lessons.collectives import all_gather, ring_all_reduce
from toolkit.lessons.wire import Wire


def own(wire: Wire, tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """This rank's part of the tensor, cut along `dim`; parts differ by one where n does not divide it."""
    return tensor.tensor_split(wire.world_size, dim)[wire.rank]


def gathered(wire: Wire, part: torch.Tensor, *, like: torch.Tensor, dim: int) -> torch.Tensor:
    """The whole again, on all ranks; `like` has its shape."""
    parts = list(like.tensor_split(wire.world_size, dim))
    parts[wire.rank] = part
    all_gather(wire, parts)
    return torch.cat(parts, dim)


def by_rows_of_x(wire: Wire, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Data parallel: other rows, the same W; rows of Y, nothing to say."""
    return own(wire, x, 0) @ w


def by_columns_of_w(wire: Wire, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Tensor parallel, column-wise: all of X, columns of W; columns of Y, nothing to say."""
    return x @ own(wire, w, 1)


def by_rows_of_w(wire: Wire, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Tensor parallel, row-wise: columns of X, rows of W; each rank has a summand of all of Y."""
    return ring_all_reduce(wire, own(wire, x, 1) @ own(wire, w, 0))


def by_layers(wire: Wire, x: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pipeline parallel: whole matrices, one per rank; each takes what the rank before it made."""
    made = x if wire.rank == 0 else wire.receive(x, source=wire.left)
    made = made @ layers[wire.rank]
    if wire.rank < wire.world_size - 1:
        wire.send(made, to=wire.right)
    return made


@dataclass(frozen=True)
class Product:
    """One product as a rank saw it."""

    difference: float
    """Largest difference from one process's product, over this rank's part."""
    held_numbers: int
    """Of X and W, that this rank held."""
    sent_bytes: int
    """By this rank."""


def compare(wire: Wire, *, rows: int = 30, inputs: int = 24, outputs: int = 18) -> dict[str, Product]:
    """The four ways, each with what one process computes."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=random)
    w = torch.randn(inputs, outputs, generator=random)
    layers = [torch.randn(inputs, inputs, generator=random) / inputs**0.5 for _ in range(wire.world_size)]
    chain = x
    for layer in layers[: wire.rank + 1]:
        chain = chain @ layer
    y, n, rank = x @ w, wire.world_size, wire.rank
    ways: dict[str, tuple[Callable[[], torch.Tensor], torch.Tensor, int]] = {
        "rows of X": (lambda: by_rows_of_x(wire, x, w), own(wire, y, 0), own(wire, x, 0).numel() + w.numel()),
        "columns of W": (lambda: by_columns_of_w(wire, x, w), own(wire, y, 1), x.numel() + own(wire, w, 1).numel()),
        "rows of W": (lambda: by_rows_of_w(wire, x, w), y, (x.numel() + w.numel()) // n),
        "layers": (lambda: by_layers(wire, x, layers), chain, (x.numel() if rank == 0 else 0) + layers[rank].numel()),
    }
    found = {}
    for name, (product, expected, held) in ways.items():
        before = wire.sent_bytes
        difference = float((product() - expected).abs().max())
        found[name] = Product(difference, held, wire.sent_bytes - before)
    return found
