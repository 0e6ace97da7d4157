"""What an estimate needs of the memory that a plan may use."""

from typing import NamedTuple

from toolkit.planner.estimates import MemoryEstimate
from toolkit.planner.memory.estimate import HEADROOM
from toolkit.specs.cluster import ClusterSpec


class Need(NamedTuple):
    """Bytes needed of what may be used of one kind of memory."""

    what: str
    num_bytes: int
    usable: float

    @property
    def overshoot(self) -> float:
        """Need over what may be used."""
        return self.num_bytes / self.usable


def needs(memory: MemoryEstimate, cluster: ClusterSpec) -> list[Need]:
    """Device, host memory and, where it is known, disk."""
    known = [
        ("device", memory.total_bytes, cluster.device.memory_bytes),
        ("host memory per node", memory.host_bytes, cluster.host_memory_bytes),
        ("disk per node", memory.disk_bytes, cluster.nvme_bytes),
    ]
    return [Need(what, num_bytes, size * (1 - HEADROOM)) for what, num_bytes, size in known if size is not None]


def overshoot(memory: MemoryEstimate, cluster: ClusterSpec) -> float:
    """Need over what may be used, of device, host or disk, whichever is worst; up to 1 the strategy fits."""
    return max(need.overshoot for need in needs(memory, cluster))
