"""Seconds of collective operations by kind, size and group; disjoint groups run at once, as dp groups beside tp do."""

from collections.abc import Callable, Iterator
from typing import get_args

import torch
import torch.distributed as dist

from toolkit.calibration.compute import DTYPES, Say
from toolkit.calibration.ranks import BORROWED_SHARES, PASSES, Ranks, TimeBox
from toolkit.specs.measurements import Collective, CollectiveTime
from toolkit.specs.workload import PRECISION_BYTES, Precision

KINDS: tuple[Collective, ...] = get_args(Collective)

_SMALLEST_BYTES = 4 * 2**10
_BETWEEN = 640
"""Width of the product that a processor computes between two operations, 3 ms at 0.17 TFLOP/s."""
_LEAST_SECONDS = 1e-6
_ALWAYS_BYTES = 2**20
"""Messages up to here are timed once whatever the time: beyond the largest that is known, the rate is taken to hold."""
_LARGEST_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}


def group_sizes(num_ranks: int) -> list[int]:
    """2, 4, 8 .. and all ranks."""
    return sorted({2**power for power in range(1, num_ranks.bit_length()) if 2**power <= num_ranks} | {num_ranks} - {1})


def message_sizes(kind: str) -> list[int]:
    """4 KiB and every fourfold up to 64 MiB, on GPUs 1 GiB."""
    sizes = [_SMALLEST_BYTES]
    while sizes[-1] < _LARGEST_BYTES[kind]:
        sizes.append(4 * sizes[-1])
    return sizes


class CollectiveTimer:
    """Times all kinds on all groups; `left_out` then says what the backend lacks."""

    def __init__(self, ranks: Ranks, precision: Precision) -> None:
        self.left_out: dict[str, str] = {}
        self._ranks, self._precision = ranks, precision

    def times(self, *, seconds: float, say: Say) -> list[CollectiveTime]:
        """Every kind, group and size that fits into the time."""
        groups = group_sizes(self._ranks.world_size)
        # p2p is between two ranks, whatever the group.
        sweeps = [(kind, size) for size in groups for kind in (KINDS if size == 2 else KINDS[:-1])]
        sizes = message_sizes(self._ranks.device.type)
        box = TimeBox(self._ranks, seconds, items_per_pass=len(sweeps) * len(sizes))
        own_groups = {size: self._own_group(size) for size in groups}
        taken: dict[tuple[Collective, int, int], list[float]] = {}
        for place, (kind, size) in enumerate(sweeps * PASSES):
            always = _ALWAYS_BYTES if place < len(sweeps) else 0
            for num_bytes, one in self._sweep(kind, own_groups[size], size, box, say, always=always):
                taken.setdefault((kind, size, num_bytes), []).append(one)
        return [
            CollectiveTime(kind=kind, num_ranks=size, num_bytes=num_bytes, seconds=min(times))
            for (kind, size, num_bytes), times in taken.items()
        ]

    def _sweep(
        self,
        kind: Collective,
        group: dist.ProcessGroup | None,
        group_size: int,
        box: TimeBox,
        say: Say,
        *,
        always: int,
    ) -> Iterator[tuple[int, float]]:
        """(bytes, seconds) of one kind, from small to large; sizes up to `always` even when the time is over."""
        last = 0.0
        for num_bytes in message_sizes(self._ranks.device.type):
            share = box.share()
            # Six calls of a fourfold size.
            if num_bytes > always and 6 * 4 * last > BORROWED_SHARES * share:
                continue
            say(f"{kind} of {num_bytes // 2**10} KiB between {group_size} ranks")
            operation = self._operation(kind, group, group_size, num_bytes)
            if (lack := self._lack(operation)) is not None:
                self.left_out[f"{kind} between {group_size} ranks"] = lack
                return
            last = self._seconds(operation, allowed=share)
            yield num_bytes, last

    def _seconds(self, operation: Callable[[], object], *, allowed: float) -> float:
        """On GPUs of the operation back to back. Processes of a CPU compute in between, as in a step: ranks never end
        at the same moment, their sending threads sleep and compete with them for the cores. Measured with two ranks:
        a bucket of 0.7 MiB takes 0.9 ms back to back, 2.7 ms in a step."""
        if self._ranks.device.type != "cpu":
            return self._ranks.seconds_of(operation, allowed=allowed)
        square = torch.ones(_BETWEEN, _BETWEEN)

        def both() -> None:
            torch.mm(square, square)
            operation()

        alone = self._ranks.seconds_of(lambda: torch.mm(square, square), allowed=allowed / 3)
        return max(self._ranks.seconds_of(both, allowed=allowed * 2 / 3) - alone, _LEAST_SECONDS)

    def _lack(self, operation: Callable[[], object]) -> str | None:
        """None if the backend has the operation, else its reason; ranks outside the groups learn of it too."""
        reason = None
        try:
            operation()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        lacking = self._ranks.slowest(float(reason is not None)) > 0
        return (reason or "not supported on another rank") if lacking else None

    def _own_group(self, group_size: int) -> dist.ProcessGroup | None:
        """The group that this rank is in; None where the last ranks do not fill one."""
        own = None
        for first in range(0, self._ranks.world_size - group_size + 1, group_size):
            members = list(range(first, first + group_size))
            # Every rank must make every group.
            group = dist.new_group(members)
            if self._ranks.rank in members:
                own = group
        return own

    def _operation(
        self, kind: Collective, group: dist.ProcessGroup | None, group_size: int, num_bytes: int
    ) -> Callable[[], object]:
        if group is None:
            return _nothing
        numel = num_bytes // PRECISION_BYTES[self._precision] // group_size * group_size
        whole, other = (torch.zeros(numel, dtype=DTYPES[self._precision], device=self._ranks.device) for _ in range(2))
        own = whole[: numel // group_size].clone()
        first = self._ranks.rank // group_size * group_size
        match kind:
            case "all_reduce":
                return lambda: dist.all_reduce(whole, group=group)
            case "all_gather":
                return lambda: dist.all_gather_into_tensor(whole, own, group=group)
            case "reduce_scatter":
                return lambda: dist.reduce_scatter_tensor(own, whole, group=group)
            case "all_to_all":
                return lambda: dist.all_to_all_single(other, whole, group=group)
            case "broadcast":
                return lambda: dist.broadcast(whole, src=first, group=group)
            case "p2p":
                if self._ranks.rank == first:
                    return lambda: dist.send(whole, dst=first + 1, group=group)
                return lambda: dist.recv(whole, src=first, group=group)


def _nothing() -> None:
    """What a rank without a group does meanwhile."""
