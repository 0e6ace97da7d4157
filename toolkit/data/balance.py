"""Who computes which rows of a global batch: equal work for all data-parallel ranks, and little padding.

Ranks wait for the slowest one in every micro-batch (ZeRO-2 and 3 sum gradients there), so not only their sums should be
equal. The rows of a global batch are fixed before; a sum over them does not know who had which.
"""

from collections.abc import Sequence


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


def imbalance(loads: Sequence[float]) -> float:
    """By how much the fullest rank exceeds the mean: max / mean - 1."""
    return max(loads) * len(loads) / sum(loads) - 1
