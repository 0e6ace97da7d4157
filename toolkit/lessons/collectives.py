"""All-reduce: every rank has a tensor of the same shape, and every rank wants their sum."""

from dataclasses import dataclass

import torch

from toolkit.lessons.wire import Wire


def gather_and_broadcast(wire: Wire, x: torch.Tensor) -> torch.Tensor:
    """All send to rank 0, which adds up and sends the sum to all."""
    if wire.rank != 0:
        wire.send(x, to=0)
        return wire.receive(x, source=0)
    total = x.clone()
    for source in range(1, wire.world_size):
        total += wire.receive(x, source=source)
    for rank in range(1, wire.world_size):
        wire.send(total, to=rank)
    return total


def reduce_scatter_step(wire: Wire, chunks: list[torch.Tensor], step: int) -> None:
    """Pass one chunk to the right, add the one from the left; after n - 1 steps rank r has the sum of chunk r."""
    give, take = (wire.rank - step - 1) % wire.world_size, (wire.rank - step - 2) % wire.world_size
    wire.send(chunks[give], to=wire.right)
    chunks[take] = chunks[take] + wire.receive(chunks[take], source=wire.left)


def all_gather_step(wire: Wire, chunks: list[torch.Tensor], step: int) -> None:
    """Pass one finished chunk to the right, keep the one from the left; after n - 1 steps all have all."""
    give, take = (wire.rank - step) % wire.world_size, (wire.rank - step - 1) % wire.world_size
    wire.send(chunks[give], to=wire.right)
    chunks[take] = wire.receive(chunks[take], source=wire.left)


def reduce_scatter(wire: Wire, chunks: list[torch.Tensor]) -> None:
    """n - 1 steps; of the sums, rank r has chunk r."""
    for step in range(wire.world_size - 1):
        reduce_scatter_step(wire, chunks, step)


def all_gather(wire: Wire, chunks: list[torch.Tensor]) -> None:
    """n - 1 steps; rank r gives chunk r, and has all afterwards."""
    for step in range(wire.world_size - 1):
        all_gather_step(wire, chunks, step)


def ring_all_reduce(wire: Wire, x: torch.Tensor) -> torch.Tensor:
    """Cut into n chunks, so that all ranks send and add at once."""
    chunks = list(x.flatten().tensor_split(wire.world_size))
    reduce_scatter(wire, chunks)
    all_gather(wire, chunks)
    return torch.cat(chunks).view_as(x)


@dataclass(frozen=True)
class Exchange:
    """One all-reduce as a rank saw it."""

    sent_bytes: int
    """By this rank."""
    difference: float
    """Largest difference from the sum that one process makes of all tensors."""
    checksum: float
    """Of the result: equal on all ranks if their results are, bit for bit."""


def compare(wire: Wire, *, numbers: int) -> dict[str, Exchange]:
    """Both ways on the same fp32 numbers."""
    tensors = [torch.randn(numbers, generator=torch.Generator().manual_seed(rank)) for rank in range(wire.world_size)]
    expected = torch.stack(tensors).sum(0)
    found = {}
    for all_reduce in (gather_and_broadcast, ring_all_reduce):
        before = wire.sent_bytes
        total = all_reduce(wire, tensors[wire.rank])
        difference = float((total - expected).abs().max())
        found[all_reduce.__name__] = Exchange(wire.sent_bytes - before, difference, float(total.double().sum()))
    return found


def predicted_bytes(name: str, size: int, *, rank: int, world_size: int) -> float:
    """What a rank sends of tensors of `size` bytes."""
    if name == "ring_all_reduce":
        return 2 * (world_size - 1) / world_size * size
    return (world_size - 1) * size if rank == 0 else size


def watch_ring(wire: Wire) -> list[list[int]]:
    """A ring whose numbers tell who is in them: rank r gives 10**r, so that 1011 is the sum of ranks 0, 1 and 3.

    Returns:
        For the start and each step, the numbers in this rank's chunks.
    """
    chunks = [torch.tensor([10**wire.rank]) for _ in range(wire.world_size)]
    seen = [[int(chunk) for chunk in chunks]]
    for one_step in (reduce_scatter_step, all_gather_step):
        for step in range(wire.world_size - 1):
            one_step(wire, chunks, step)
            seen.append([int(chunk) for chunk in chunks])
    return seen
