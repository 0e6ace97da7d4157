"""Sums over the ranks, exact for counts."""

import torch
import torch.distributed as dist


def sum_over_ranks(*values: float | torch.Tensor, speaks: bool, device: torch.device) -> tuple[torch.Tensor, dist.Work]:
    """Float64 [len(values)]; the sums are there once the work has been waited for.

    Args:
        values: of this rank.
        speaks: False where another rank speaks for this one too: it computes the same.
        device: where the process group works.
    """
    total = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
    if not speaks:
        total.zero_()
    work = dist.all_reduce(total, async_op=True)
    assert work is not None, "all_reduce was called by a rank outside the group"
    return total, work
