"""Averaging gradients over the replicas in fewer bytes; ZeRO-0 alone keeps whole gradients on every rank.

16 bits by torch's own communication hooks for DistributedDataParallel (torch/distributed/algorithms/ddp_comm_hooks),
which get what they would get there: buckets of gradients. PowerSGD has a file of its own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from toolkit.engines.common.sums import norm_of, root_mean_square
from toolkit.engines.zero.low_rank import LowRank, room_in_fp16
from toolkit.specs.communication import CommunicationConfig

_BUCKET_NUMBERS = 64 * 1024**2
"""So many are sent together: 256 MB in fp32."""


class Bucket:
    """Gradients end to end, with the methods of torch's `GradBucket` that its hooks call."""

    def __init__(self, number: int, gradients: Sequence[torch.Tensor]) -> None:
        self._number = number
        # In fp32 also where the gradients are bf16: what waits is added up.
        self._buffer = torch.cat([gradient.flatten() for gradient in gradients]).float()

    def index(self) -> int:
        """Which of the step's buckets."""
        return self._number

    def buffer(self) -> torch.Tensor:
        """All numbers, flat."""
        return self._buffer


class TopK:
    """The largest numbers of each rank's gradient, by magnitude; what is left waits for the next step (1809.07599)."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._left: dict[int, torch.Tensor] = {}

    def count(self, numbers: int) -> int:
        """Of so many, those that are sent."""
        return max(1, int(numbers * self._ratio))

    def average(self, bucket: Bucket) -> torch.Tensor:
        """Mean over the ranks of what each sends; the same on all, as all add in the order of the ranks."""
        numbers = bucket.buffer()
        if bucket.index() in self._left:
            numbers += self._left[bucket.index()]
        chosen = numbers.abs().topk(self.count(len(numbers)), sorted=False).indices
        values = numbers[chosen]
        numbers[chosen] = 0
        self._left[bucket.index()] = numbers
        world, places = dist.get_world_size(), chosen.int()
        all_values = [torch.empty_like(values) for _ in range(world)]
        all_places = [torch.empty_like(places) for _ in range(world)]
        dist.all_gather(all_values, values)
        dist.all_gather(all_places, places)
        mean = torch.zeros_like(numbers)
        for at, found in zip(all_places, all_values, strict=True):
            mean.index_add_(0, at.long(), found, alpha=1 / world)
        return mean


class Exchange:
    """`Between` that averages gradients at every step.

    Args:
        config: of the recipe, with a compression.
    """

    def __init__(self, config: CommunicationConfig) -> None:
        self._config = config
        self.alone = False
        """As `Between`."""
        self._sent_bytes = 0.0
        self._num_updates = 0
        self._low_rank: LowRank | None = None
        self._forget()

    def before_saving(self) -> None:
        """Forget what was left out of earlier steps."""
        self._forget()

    def begin_anew(self, num_updates: int) -> None:
        """Forget it, and count on from there."""
        self._num_updates = num_updates
        self._forget()

    @torch.no_grad()
    def reduce(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """To their mean over the replicas.

        A number that is none on one rank is told to all before any of them adds it to what waits for later steps, where
        it would stay for good.
        """
        if self._config.compression == "powersgd" and self._num_updates >= self._config.full_steps:
            self._low_rank = self._low_rank or LowRank(self._config.rank, gradients)
            norm = self._low_rank.average(gradients)
            self._sent_bytes += self._low_rank.sent_bytes
            return norm
        told = root_mean_square(norm_of(gradients))
        if not bool(torch.isfinite(told)):
            return told
        for number, members in enumerate(sent_together(gradients)):
            mean = self._averaged(Bucket(number, members))
            put_back(mean, members)
        return norm_of(gradients)

    def after_step(self, *, skipped: bool) -> None:
        """All ranks have made the same update."""
        self._num_updates += not skipped

    def settle(self) -> None:
        """All ranks have the same weights."""

    def take_sent_bytes(self) -> float:
        """As `Between`."""
        taken, self._sent_bytes = self._sent_bytes, 0.0
        return taken

    def _forget(self) -> None:
        self._low_rank = None
        self._topk = TopK(self._config.ratio)

    def _averaged(self, bucket: Bucket) -> torch.Tensor:
        world, numbers = dist.get_world_size(), bucket.buffer()
        round_trip = 2 * (world - 1) / world
        if self._num_updates < self._config.full_steps:
            self._sent_bytes += round_trip * numbers.nbytes
            return _waited(default_hooks.allreduce_hook, dist.group.WORLD, bucket)
        match self._config.compression:
            case "topk":
                self._sent_bytes += (world - 1) * self._topk.count(len(numbers)) * (numbers.element_size() + 4)
                return self._topk.average(bucket)
            case "fp16":
                self._sent_bytes += round_trip * 2 * len(numbers)
                factor = _shared_room(numbers)
                numbers.mul_(factor)
                return _waited(default_hooks.fp16_compress_hook, dist.group.WORLD, bucket).div_(factor)
            case _:
                self._sent_bytes += round_trip * 2 * len(numbers)
                return _waited(default_hooks.bf16_compress_hook, dist.group.WORLD, bucket)


def _shared_room(numbers: torch.Tensor) -> float:
    """`room_in_fp16` of the largest number of any rank, the same on all."""
    largest = torch.linalg.vector_norm(numbers, ord=math.inf)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return room_in_fp16(float(largest))


def _waited(hook: Callable[..., Any], state: Any, bucket: Bucket) -> torch.Tensor:
    mean: torch.Tensor = hook(state, bucket).wait()
    return mean


def sent_together(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype that make a bucket: over a link with a delay every collective waits for it."""
    group, size = list[torch.Tensor](), 0
    for tensor in tensors:
        if group and (size + tensor.numel() > _BUCKET_NUMBERS or tensor.dtype != group[-1].dtype):
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.numel()
    if group:
        yield group


def put_back(flat: torch.Tensor, members: Sequence[torch.Tensor]) -> None:
    """Numbers that were sent end to end, into the tensors that they are of."""
    for member, part in zip(members, torch.split(flat, [one.numel() for one in members]), strict=True):
        member.copy_(part.view(member.shape))
