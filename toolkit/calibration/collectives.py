"""Seconds of collective operations by kind, size and group; disjoint groups run at once, as dp groups beside tp do."""

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple, get_args

import torch
import torch.distributed as dist

from toolkit.calibration.across import COMPUTED, Own, middle_mean, seconds_across
from toolkit.calibration.compute import DTYPES, Say
from toolkit.calibration.ranks import BORROWED_SHARES, PASSES, Ranks, TimeBox
from toolkit.specs.measurements import Collective, CollectiveTime
from toolkit.specs.workload import PRECISION_BYTES, Precision

KINDS: tuple[Collective, ...] = get_args(Collective)

_SMALLEST_BYTES = 4 * 2**10
_LEAST_SECONDS = 1e-6
_ALWAYS_BYTES = 2**20
"""Messages up to here are timed once whatever the time: beyond the largest that is known, the rate is taken to hold."""
_ACROSS_SECONDS = 3.0
"""So long may the calls of one size over slow links take, once: room for 4 MiB at 100 Mb/s, 16 with 20 ms. Smaller ones
tell no rate there: what is on its way at a moment, in sockets and queues, is a large part of them."""
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


class Groups(NamedTuple):
    """Groups of one size that work at once, as dp groups beside tp do."""

    num_ranks: int
    num_nodes: int
    members: tuple[tuple[int, ...], ...]
    """Ranks of each; ranks that no group has do nothing meanwhile."""

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.num_ranks} ranks" + (f" on {self.num_nodes} hosts" if self.num_nodes > 1 else "")


def groups_inside(num_ranks: int) -> list[Groups]:
    """Of neighbours on one machine: 2, 4, 8 .. and all of them."""
    return [
        Groups(size, 1, tuple(tuple(range(first, first + size)) for first in range(0, num_ranks - size + 1, size)))
        for size in group_sizes(num_ranks)
    ]


def groups_between(num_nodes: int, per_node: int) -> list[Groups]:
    """Over 2, 4, 8 .. and all machines: one rank of each, all such groups at once, and all ranks of each."""
    found = []
    for size in group_sizes(num_nodes):
        blocks = [range(first, first + size) for first in range(0, num_nodes - size + 1, size)]
        single = [tuple(node * per_node + own for node in block) for block in blocks for own in range(per_node)]
        found.append(Groups(size, size, tuple(single)))
        if per_node > 1:
            whole = [tuple(node * per_node + own for node in block for own in range(per_node)) for block in blocks]
            found.append(Groups(size * per_node, size, tuple(whole)))
    return found


class CollectiveTimer:
    """Times all kinds on all groups; `left_out` then says what the backend lacks."""

    def __init__(self, ranks: Ranks, precision: Precision, groups: Sequence[Groups]) -> None:
        self.left_out: dict[str, str] = {}
        self._ranks, self._precision, self._groups = ranks, precision, groups

    def times(self, *, seconds: float, say: Say) -> list[CollectiveTime]:
        """Every kind, group and size that fits into the time."""
        # p2p is between two ranks, whatever the group.
        kinds = {groups: KINDS if groups.num_ranks == 2 else KINDS[:-1] for groups in self._groups}
        sweeps = [(kind, groups) for groups in self._groups for kind in kinds[groups]]
        sizes = message_sizes(self._ranks.device.type)
        box = TimeBox(self._ranks, seconds, items_per_pass=max(1, len(sweeps) * len(sizes)))
        own_groups = {groups: self._own_group(groups) for groups in self._groups}
        taken: dict[tuple[Collective, Groups, int], list[float]] = {}
        for place, (kind, groups) in enumerate(sweeps * PASSES):
            always = _ALWAYS_BYTES if place < len(sweeps) else 0
            for num_bytes, calls in self._sweep(kind, own_groups[groups], groups, box, say, always=always):
                taken.setdefault((kind, groups, num_bytes), []).extend(calls)
        return [
            CollectiveTime(
                kind=kind,
                num_ranks=groups.num_ranks,
                num_nodes=groups.num_nodes,
                num_bytes=num_bytes,
                seconds=self._typical(groups, times),
            )
            for (kind, groups, num_bytes), times in taken.items()
        ]

    def _typical(self, groups: Groups, times: Sequence[float]) -> float:
        """Of several measurements."""
        on_gpus, across = self._ranks.device.type == "cuda", groups.num_nodes > 1
        if on_gpus and not across:
            return min(times)
        # A link has its good moments, which no step can wait for; and a difference of two times (`_seconds`) is least
        # where the second was disturbed.
        return middle_mean(times) if across and not on_gpus else median(times)

    def _sweep(
        self,
        kind: Collective,
        own: Own | None,
        groups: Groups,
        box: TimeBox,
        say: Say,
        *,
        always: int,
    ) -> Iterator[tuple[int, list[float]]]:
        """(bytes, measurements) of one kind, from small to large; sizes up to `always` even when the time is over."""
        last = 0.0
        for num_bytes in message_sizes(self._ranks.device.type):
            share = box.share()
            across = groups.num_nodes > 1 and self._ranks.device.type == "cpu"
            allowed = BORROWED_SHARES * share
            if always and across:
                allowed = max(allowed, _ACROSS_SECONDS)
            # Six calls of a fourfold size, or three; of short ones five, which do not count here.
            if num_bytes > always and (3 if across else 6) * 4 * last > allowed:
                continue
            say(f"{kind} of {num_bytes // 2**10} KiB between {groups.words}")
            operation = self._operation(kind, own, num_bytes)
            if (lack := self._lack(operation)) is not None:
                self.left_out[f"{kind} between {groups.words}"] = lack
                return
            if across:
                one_way = kind in ("broadcast", "p2p")
                taken = seconds_across(self._ranks, own, operation, allowed=share, one_way=one_way)
            else:
                taken = [self._seconds(operation, allowed=share)]
            last = mean(taken)
            yield num_bytes, taken

    def _seconds(self, operation: Callable[[], object], *, allowed: float) -> float:
        """On GPUs of the operation back to back. Processes of a CPU compute in between, as in a step: ranks never end
        at the same moment, their sending threads sleep and compete with them for the cores. Measured with two ranks:
        a bucket of 0.7 MiB takes 0.9 ms back to back, 2.7 ms in a step."""
        if self._ranks.device.type != "cpu":
            return self._ranks.seconds_of(operation, allowed=allowed)
        square = torch.ones(COMPUTED, COMPUTED)

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

    def _own_group(self, groups: Groups) -> Own | None:
        """The group that this rank is in; None where it is in none."""
        own = None
        for members in groups.members:
            # Every rank must make every group.
            group = dist.new_group(list(members))
            if self._ranks.rank in members:
                own = Own(group, members)
        return own

    def _operation(self, kind: Collective, mine: Own | None, num_bytes: int) -> Callable[[], object]:
        if mine is None:
            return _nothing
        group, size, first = mine.group, len(mine.members), mine.members[0]
        numel = num_bytes // PRECISION_BYTES[self._precision] // size * size
        whole, other = (torch.zeros(numel, dtype=DTYPES[self._precision], device=self._ranks.device) for _ in range(2))
        own = whole[: numel // size].clone()
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
                    return lambda: dist.send(whole, dst=mine.members[1], group=group)
                return lambda: dist.recv(whole, src=first, group=group)


def _nothing() -> None:
    """What a rank without a group does meanwhile."""
