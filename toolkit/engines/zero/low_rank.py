"""PowerSGD (1905.13727): a product of two thin matrices in the place of each gradient, averaged over the replicas.

After torch's hook for DistributedDataParallel (ddp_comm_hooks/powerSGD_hook.py), with differences:

- Thin matrices travel in fp16. Twice the rank costs as many bytes as in fp32, and is worth much more.
- What a rank leaves out is its own gradient less its own part in the product. Torch takes the mean's product off it:
  what tells a rank's gradients from the others' then piles up on it, step after step. It cancels out in the sum of all
  ranks, but 16 bits would no longer hold the sum's digits.
- Vectors travel with the norms that the ranks agree on, tensors of a shape are multiplied in one call, and nothing is
  put end to end: three messages in the place of four, and half of the passes over the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from toolkit.engines.common.sums import norm_of
from toolkit.specs.communication import thin_columns

_FIRST_ROUNDS = 3
"""Power iterations of the first step, which begins with columns drawn by lot; others go on from the last step's."""


@dataclass
class _Alike:
    """Gradients of one shape."""

    members: list[int]
    left_out: torch.Tensor
    """Of earlier steps, on this rank: fp32 [members, rows, columns]."""
    right: torch.Tensor
    """The last mean's right factors: fp32 [members, columns, rank]."""


class LowRank:
    """Of the gradients of a model, the same tensors in the same order on every rank and at every step.

    Args:
        rank: columns of the thin matrices; None takes them by the size of each matrix.
        gradients: of this rank; their shapes count.
    """

    def __init__(self, rank: int | None, gradients: Sequence[torch.Tensor]) -> None:
        self._whole: list[int] = []
        by_shape: dict[tuple[int, int], list[int]] = {}
        for number, gradient in enumerate(gradients):
            shape = (gradient.shape[0], gradient.numel() // gradient.shape[0])
            worth = thin_columns(*shape, rank) > 0
            (by_shape.setdefault(shape, []) if worth else self._whole).append(number)
        device, lots = gradients[0].device, torch.Generator().manual_seed(0)  # the same on all ranks
        self._alike = [
            _Alike(
                members,
                torch.zeros(len(members), rows, columns, device=device),
                torch.randn(len(members), columns, thin_columns(rows, columns, rank), generator=lots).to(device),
            )
            for (rows, columns), members in by_shape.items()
        ]
        self._nothing = torch.zeros(1, device=device)
        self._rounds = _FIRST_ROUNDS
        self.sent_bytes = 0.0
        """By each rank in the last step, as in a ring of them."""

    def waiting(self) -> torch.Tensor:
        """Norm of what this rank has left out of earlier steps."""
        return norm_of([self._nothing, *(one.left_out for one in self._alike)])

    def average(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """To their mean over the ranks, as near as so few columns come; its norm.

        Where a number of any rank is none the norm is none either, and nothing of that step waits for a later one.
        """
        self.sent_bytes = 0.0
        norms = torch.stack([norm_of(gradients), self.waiting()])
        means = self._mean([norms, *(gradients[number].float() for number in self._whole)])
        told = means.pop(0).sum()
        if not bool(torch.isfinite(told)):
            return told
        for number, mean in zip(self._whole, means, strict=True):
            gradients[number].copy_(mean)
        if self._alike:
            self._average_matrices(gradients, room_in_fp16(float(told)) / dist.get_world_size())
        return norm_of(gradients)

    def _average_matrices(self, gradients: Sequence[torch.Tensor], room: float) -> None:
        """Those that are worth it.

        Args:
            gradients: of this rank.
            room: factor that makes room in fp16 for a rank's part of any number that is sent.
        """
        for one in self._alike:
            for left_out, member in zip(one.left_out, one.members, strict=True):
                left_out += gradients[member].view_as(left_out)
        rounds, self._rounds = self._rounds, 1
        for _ in range(rounds):
            # Of length one: no number of a product is larger than the norms that the ranks have told each other.
            right = [torch.nn.functional.normalize(one.right, dim=1) for one in self._alike]
            seen = [torch.bmm(one.left_out, columns) for one, columns in zip(self._alike, right, strict=True)]
            left = [torch.linalg.qr(mean).Q for mean in self._mean(seen, room)]
            parts = [torch.bmm(one.left_out.mT, columns) for one, columns in zip(self._alike, left, strict=True)]
            right = [(part * room).half().float() / room for part in parts]
            for one, mean in zip(self._alike, self._mean(right, room), strict=True):
                one.right = mean
        for one, columns, own in zip(self._alike, left, right, strict=True):
            one.left_out.baddbmm_(columns, own.mT, alpha=-1)
            for member, *factors in zip(one.members, columns, one.right, strict=True):
                gradients[member].copy_((factors[0] @ factors[1].T).view_as(gradients[member]))

    def _mean(self, tensors: Sequence[torch.Tensor], room: float | None = None) -> list[torch.Tensor]:
        """Over the ranks; in fp16 where there is a factor for it, in fp32 without."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        world = dist.get_world_size()
        flat = flat / world if room is None else (flat * room).half()
        dist.all_reduce(flat)
        self.sent_bytes += 2 * (world - 1) / world * flat.nbytes
        if room is not None:
            flat = flat.float() / (room * world)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def room_in_fp16(largest: float) -> float:
    """A power of two that brings the largest number to between 2^14 and 2^15.

    fp16 ends at 65504, and the mean of such numbers is added up without going beyond it; at the other end, it loses
    digits below 6e-5 and everything below 3e-8, which small gradients are as a whole. A power of two rounds nothing.
    """
    # Within the exponents of fp32 that factor and quotient both have.
    return 2.0 ** max(min(15 - math.frexp(largest)[1], 126), -126)
