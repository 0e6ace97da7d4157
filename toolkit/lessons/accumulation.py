"""Micro-batches with different numbers of supervised tokens: the mean of means is another loss than the mean."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from toolkit.lessons.collectives import ring_all_reduce
from toolkit.lessons.wire import Wire

TOKENS = ((120, 6), (4, 90), (5, 70), (100, 5))
"""Supervised tokens of each rank's two micro-batches."""


@dataclass(frozen=True)
class Tokens:
    """One micro-batch."""

    x: torch.Tensor
    """[tokens, inputs]."""
    labels: torch.Tensor
    """[tokens], each one of the columns of the weights."""


def make_tokens(*, inputs: int = 8, vocabulary: int = 12) -> tuple[list[list[Tokens]], torch.Tensor]:
    """Micro-batches of each rank, and weights to begin with; what is short follows another rule than what is long."""
    random = torch.Generator().manual_seed(0)
    rules = {is_short: torch.randn(inputs, vocabulary, generator=random) for is_short in (False, True)}
    ranks = []
    for counts in TOKENS:
        xs = [torch.randn(count, inputs, generator=random) for count in counts]
        ranks.append([Tokens(x, (2 * x @ rules[len(x) < 10]).argmax(1)) for x in xs])
    return ranks, torch.zeros(inputs, vocabulary)


def summed(tokens: Tokens, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and its gradient, summed over the tokens."""
    rows = torch.arange(len(tokens.labels))
    log_p = (tokens.x @ w).log_softmax(1)
    d_logits = log_p.exp()
    d_logits[rows, tokens.labels] -= 1
    return -log_p[rows, tokens.labels].sum(), tokens.x.T @ d_logits


def mean_of_means(wire: Wire, micro_batches: list[Tokens], w: torch.Tensor) -> torch.Tensor:
    """The trap: each micro-batch divides by its own tokens, and the means are averaged."""
    means = [summed(one, w)[1] / len(one.labels) for one in micro_batches]
    return ring_all_reduce(wire, torch.stack(means).mean(0)) / wire.world_size


def sum_over_count(wire: Wire, micro_batches: list[Tokens], w: torch.Tensor) -> torch.Tensor:
    """Sums of gradients and the number of tokens; one division, after they have been added up over the ranks."""
    gradient = torch.stack([summed(one, w)[1] for one in micro_batches]).sum(0)
    count = torch.tensor([float(sum(len(one.labels) for one in micro_batches))])
    total = ring_all_reduce(wire, torch.cat([gradient.flatten(), count]))
    return (total[:-1] / total[-1]).view_as(w)


@dataclass(frozen=True)
class Accumulated:
    """Training by one of the two."""

    error: float
    """Of the first gradient, from that of one process on all tokens, as a part of it."""
    losses: list[float]
    """Mean over all tokens, before each step."""
    token_weights: list[list[float]]
    """What one token of each rank's micro-batches counts, times the number of all tokens: 1 is its fair part."""


def compare(wire: Wire, *, steps: int = 40, rate: float = 4.0) -> dict[str, Accumulated]:
    """Both, from the same start."""
    ranks, start = make_tokens()
    every = [one for micro_batches in ranks for one in micro_batches]
    whole = Tokens(torch.cat([one.x for one in every]), torch.cat([one.labels for one in every]))
    count = len(whole.labels)
    expected = summed(whole, start)[1] / count
    fair = [[1.0 for _ in counts] for counts in TOKENS]
    unfair = [[count / (tokens * len(every)) for tokens in counts] for counts in TOKENS]
    found = {}
    ways: tuple[tuple[Callable[[Wire, list[Tokens], torch.Tensor], torch.Tensor], list[list[float]]], ...]
    ways = ((mean_of_means, unfair), (sum_over_count, fair))
    for way, token_weights in ways:
        error = float((way(wire, ranks[wire.rank], start) - expected).norm() / expected.norm())
        w, losses = start, []
        for _ in range(steps):
            losses.append(float(summed(whole, w)[0]) / count)
            w = w - rate * way(wire, ranks[wire.rank], w)
        found[way.__name__] = Accumulated(error, losses, token_weights)
    return found
