"""One long sequence on several ranks: attention is the only layer whose tokens need each other."""

from dataclasses import dataclass

import torch

from toolkit.lessons.matrix_product import gathered, own
from toolkit.lessons.wire import Wire


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: int = 0) -> torch.Tensor:
    """Causal, [heads, tokens, size]; the queries are those of tokens `first` and on."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    positions = first + torch.arange(q.shape[1])
    later = torch.arange(k.shape[1]) > positions[:, None]
    made: torch.Tensor = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return made


def context_parallel(wire: Wire, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tokens: int) -> torch.Tensor:
    """Queries stay, keys and values of all tokens are gathered."""
    whole = torch.empty(k.shape[0], tokens, k.shape[2])
    first = sum(part.shape[1] for part in whole.tensor_split(wire.world_size, 1)[: wire.rank])
    return attention(q, gathered(wire, k, whole, 1), gathered(wire, v, whole, 1), first=first)


def all_to_all(wire: Wire, parts: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rank r gets every rank's part r."""
    for rank, part in enumerate(parts):
        if rank != wire.rank:
            wire.send(part, to=rank)
    return [parts[rank] if rank == wire.rank else wire.receive(one, source=rank) for rank, one in enumerate(like)]


def ulysses(wire: Wire, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tokens: int) -> torch.Tensor:
    """All heads of some tokens become some heads of all tokens, and after attention the other way round."""
    heads, _, size = q.shape
    own_heads = own(wire, torch.empty(heads), 0).shape[0]
    lengths = [len(part) for part in torch.empty(tokens).tensor_split(wire.world_size)]
    some_heads = [torch.empty(own_heads, length, size) for length in lengths]
    q, k, v = (
        torch.cat(all_to_all(wire, list(one.tensor_split(wire.world_size, 0)), some_heads), 1) for one in (q, k, v)
    )
    made = attention(q, k, v)
    some_tokens = list(torch.empty(heads, lengths[wire.rank], size).tensor_split(wire.world_size, 0))
    return torch.cat(all_to_all(wire, list(torch.split(made, lengths, 1)), some_tokens), 0)


@dataclass(frozen=True)
class Divided:
    """One way of dividing a sequence."""

    difference: float
    """Largest difference from attention over the whole sequence in one process, over this rank's tokens."""
    sent_bytes: int
    """By this rank."""


def compare(wire: Wire, *, heads: int = 4, tokens: int = 50, size: int = 8) -> dict[str, Divided]:
    """Both ways on the same fp32 numbers."""
    q, k, v = torch.randn(3, heads, tokens, size, generator=torch.Generator().manual_seed(0))
    expected = own(wire, attention(q, k, v), 1)
    found = {}
    for way in (context_parallel, ulysses):
        before = wire.sent_bytes
        made = way(wire, own(wire, q, 1), own(wire, k, 1), own(wire, v, 1), tokens)
        found[way.__name__] = Divided(float((made - expected).abs().max()), wire.sent_bytes - before)
    return found
