"""Who computes which rows of a global batch: equal work for all data-parallel ranks, and little padding.

Ranks wait for the slowest one in every micro-batch (ZeRO-2 and 3 sum gradients there), so not only their sums should be
equal. The rows of a global batch are fixed before; a sum over them does not know who had which.
"""

from collections.abc import Sequence

_SWAPS = 4
"""Per rank, at most."""


def divided(lengths: Sequence[int], *, dp: int, micro_batch: int, grad_accum: int) -> list[list[list[int]]]:
    """Divide a global batch by length: rows of about one length share a micro-batch, on all ranks at the same time.

    Each micro-batch takes the longest rows that are left; of these each goes to the rank with the fewest tokens so
    far that still has room. The first micro-batch is the widest, so memory that does not suffice shows at once.

    Args:
        lengths: tokens of each row; fewer rows than dp x micro_batch x grad_accum at the end of an epoch.
        dp: data-parallel replicas.
        micro_batch: rows per forward pass.
        grad_accum: forward passes per optimizer step.

    Returns:
        Of each micro-batch and data rank the places of its rows in `lengths`.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    loads, width = [0] * dp, dp * micro_batch
    division = []
    for start in range(0, width * grad_accum, width):
        ranks: list[list[int]] = [[] for _ in range(dp)]
        for place in order[start : start + width]:
            rank = min((rank for rank in range(dp) if len(ranks[rank]) < micro_batch), key=loads.__getitem__)
            ranks[rank].append(place)
            loads[rank] += lengths[place]
        division.append(ranks)
    return division


def dealt(lengths: Sequence[int], *, micro_batch: int, counts: Sequence[int]) -> list[list[list[int]]]:
    """Divide a global batch over ranks that have unequal numbers of micro-batches, and meet at the end of a step only.

    Rows of about one length share a micro-batch. The longest first, each goes to the rank that then has the fewest
    tokens for its number of micro-batches. Who has few of them would get too few long ones, so the rank with the most
    and the one with the fewest then swap two, as long as that brings them together.

    Args:
        lengths: tokens of each row; fewer rows than there is room for at the end of an epoch.
        micro_batch: rows per forward pass.
        counts: forward passes per optimizer step, of each data rank.

    Returns:
        Of each data rank and micro-batch of it the places of its rows in `lengths`.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    micros = [order[start : start + micro_batch] for start in range(0, sum(counts) * micro_batch, micro_batch)]
    tokens = [sum(lengths[place] for place in places) for places in micros]
    loads, ranks = [0] * len(counts), range(len(counts))
    division: list[list[int]] = [[] for _ in counts]
    for number, added in enumerate(tokens):
        able = (rank for rank in ranks if len(division[rank]) < counts[rank])
        rank = min(able, key=lambda one: (loads[one] + added) / counts[one])
        division[rank].append(number)
        loads[rank] += added
    for _ in range(_SWAPS * len(counts)):
        most, least = (choose(ranks, key=lambda one: loads[one] / counts[one]) for choose in (max, min))
        # What the one has to give to the other for both to have as many tokens a micro-batch.
        due = (loads[most] * counts[least] - loads[least] * counts[most]) / (counts[most] + counts[least])
        pairs = ((tokens[given] - tokens[got], given, got) for given in division[most] for got in division[least])
        moved, given, got = min(pairs, key=lambda pair: abs(pair[0] - due))
        if not 0 < moved < 2 * due:
            break
        division[most][division[most].index(given)] = got
        division[least][division[least].index(got)] = given
        loads[most], loads[least] = loads[most] - moved, loads[least] + moved
    return [[micros[number] for number in sorted(own)] for own in division]


def imbalance(loads: Sequence[float]) -> float:
    """By how much the fullest rank exceeds the mean: max / mean - 1."""
    return max(loads) * len(loads) / sum(loads) - 1
