"""One long sequence on several ranks: attention is the only layer whose tokens need each other."""

from dataclasses import dataclass

import torch

from toolkit.lessons.matrix_product import gathered, own
from toolkit.lessons.wire import Wire


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal, [heads, tokens, size] each; the queries are those of the last tokens."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    position = torch.arange(k.shape[1])
    later = position > position[-q.shape[1] :, None]
    made: torch.Tensor = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return made


def context_parallel(wire: Wire, qkv: torch.Tensor, tokens: int) -> torch.Tensor:
    """Queries stay, keys and values of all tokens are gathered; [3, heads, own tokens, size]."""
    q, like = qkv[0], torch.empty(2, qkv.shape[1], tokens, qkv.shape[3])
    k, v = gathered(wire, qkv[1:], like=like, dim=2)
    until = sum(own.shape[2] for own in like.tensor_split(wire.world_size, 2)[: wire.rank + 1])
    return attention(q, k[:, :until], v[:, :until])


def all_to_all(wire: Wire, parts: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rank r gets every rank's part r; `like` has the shapes of what comes from each."""
    for rank, part in enumerate(parts):
        if rank != wire.rank:
            wire.send(part, to=rank)
    return [parts[rank] if rank == wire.rank else wire.receive(one, source=rank) for rank, one in enumerate(like)]


def ulysses(wire: Wire, qkv: torch.Tensor, tokens: int) -> torch.Tensor:
    """All heads of some tokens become some heads of all tokens, and after attention the other way round."""
    _, heads, _, size = qkv.shape
    num_heads = [len(part) for part in torch.empty(heads).tensor_split(wire.world_size)]
    lengths = [len(part) for part in torch.empty(tokens).tensor_split(wire.world_size)]
    some_heads = [torch.empty(3, num_heads[wire.rank], length, size) for length in lengths]
    q, k, v = torch.cat(all_to_all(wire, list(torch.split(qkv, num_heads, 1)), some_heads), 2)
    made = attention(q, k, v)
    some_tokens = [torch.empty(number, lengths[wire.rank], size) for number in num_heads]
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
    qkv = torch.randn(3, heads, tokens, size, generator=torch.Generator().manual_seed(0))
    expected = own(wire, attention(*qkv), 1)
    found = {}
    for way in (context_parallel, ulysses):
        before = wire.sent_bytes
        made = way(wire, own(wire, qkv, 2), tokens)
        found[way.__name__] = Divided(float((made - expected).abs().max()), wire.sent_bytes - before)
    return found
