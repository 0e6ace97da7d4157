"""Host side: transfers over the host link, Adam in host memory, disks."""

from typing import NamedTuple

from toolkit.planner.cost import constants, cpu_engine
from toolkit.planner.cost.owned import Owned
from toolkit.planner.cost.rates import Rates
from toolkit.planner.setup import Setup


class HostSeconds(NamedTuple):
    """Seconds of one step."""

    transfers: float
    """Over the host link and to disks."""
    optimizer: float
    """Adam, in host memory where the trained weights are there."""


def optimizer_seconds(rates: Rates, setup: Setup, own: Owned) -> float:
    """The optimizer's step where nothing is offloaded: bound by memory, on a CPU by that of the whole machine."""
    divided = setup.shards if setup.zero_stage >= 1 else 1
    if rates.on_cpu:
        ranks = min(rates.per_node, setup.world_size)
        adam = constants.ADAM_BYTES * own.trained / divided * ranks / rates.adam_bandwidth
        return adam + (cpu_engine.copy_seconds(rates, setup, own) if rates.on_measured_cpu else 0.0)
    return rates.law.optimizer_bytes * own.trained / divided / rates.bandwidth


def host_seconds(rates: Rates, setup: Setup, own: Owned) -> HostSeconds:
    """Offloaded optimizer: gradients down after every micro-batch, weights up after the step (2101.06840, 4.1).

    `all` reads the rank's share of the weights for the forward and for the backward pass of every micro-batch. A disk
    is shared by the ranks of a node, as is the host's memory.
    """
    share = own.trained / setup.shards
    down = 2 * share * setup.grad_accum / rates.to_host
    up = 2 * share / rates.from_host
    if setup.offload == "all":
        up += 2 * setup.grad_accum * own.weight_bytes / setup.shards / rates.from_host
    ranks = min(rates.per_node, setup.world_size)
    if setup.offload == "optimizer" or own.trained == own.params:
        adam = constants.ADAM_BYTES * share * ranks / rates.adam_bandwidth
    else:
        adam = constants.ADAM_BYTES * share / rates.bandwidth
    disk = 0.0
    if setup.offload_to == "nvme":
        disk = constants.DISK_BYTES * share * ranks * (1 / rates.disk_read + 1 / rates.disk_write)
        if setup.offload == "all":
            disk += 2 * setup.grad_accum * own.weight_bytes / setup.shards * ranks / rates.disk_read
    return HostSeconds(down + up + disk, adam)
