"""A cluster and a framework's law as plain numbers, read once: a search asks for the same ones thousands of times."""

from dataclasses import dataclass

from toolkit.planner.cost import constants
from toolkit.planner.time_law import TimeLaw
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.device import Device
from toolkit.specs.measurements import AttentionRate, CollectiveTime, MatmulRate, Measurements, SizeRate

WIDTH = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.5}
"""Bytes of a factor of a matrix product."""


@dataclass(frozen=True, eq=False)
class Rates:
    """What the formulas read; compared and hashed by identity, so that caches are cheap."""

    law: TimeLaw
    flop_seconds: dict[str, float]
    """Precision -> seconds per FLOP of large matrix products."""
    peak: dict[str, float]
    """Precision -> peak FLOP/s."""
    raw_bandwidth: float
    """Memory traffic, bytes/s."""
    bandwidth: float
    """What of it elementwise kernels reach."""
    on_cpu: bool
    """Ranks are processes of a CPU: nothing overlaps, gloo runs on the same cores."""
    per_node: int
    """Ranks per machine."""
    fast_domain: int
    """Ranks that reach each other over the device's link."""
    link: float
    """Bytes/s between devices of the fast domain, one direction."""
    network: float
    """Bytes/s of one rank's share of its node's network."""
    link_latency: float
    """Seconds per hop in the fast domain."""
    network_latency: float
    """Seconds per hop between nodes."""
    to_host: float
    """Bytes/s from one device to its host."""
    from_host: float
    """Bytes/s from the host to one device."""
    adam_bandwidth: float
    """Bytes/s per node of Adam on the host."""
    disk_read: float
    """Bytes/s per node."""
    disk_write: float
    """Bytes/s per node."""
    op_seconds: float
    """Host time per operation."""
    matmuls: tuple[MatmulRate, ...]
    """Measured products; the law holds where there are none."""
    collectives: tuple[CollectiveTime, ...]
    """Measured collectives."""
    elementwise: tuple[SizeRate, ...]
    """Measured elementwise operations of a processor."""
    attention: tuple[AttentionRate, ...]
    """Measured attention of a processor."""
    loss: tuple[SizeRate, ...]
    """Measured cross entropies of a processor."""

    @property
    def on_measured_cpu(self) -> bool:
        """There are tables for processor.py."""
        return self.on_cpu and bool(self.matmuls and self.elementwise and self.attention and self.loss)


_known: dict[tuple[int, int], tuple[ClusterSpec, Rates]] = {}
_KNOWN_LIMIT = 2048


def rates_of(cluster: ClusterSpec, law: TimeLaw) -> Rates:
    """The rates of a cluster under a law; the same two objects give the same object back."""
    key = (id(cluster), id(law))
    found = _known.get(key)
    if found is not None and found[0] is cluster and found[1].law is law:
        return found[1]
    if len(_known) >= _KNOWN_LIMIT:
        _known.clear()
    rates = _read(cluster, law)
    _known[key] = (cluster, rates)
    return rates


def _read(cluster: ClusterSpec, law: TimeLaw) -> Rates:
    device = cluster.device
    measured = cluster.measured or Measurements(made_with="")
    raw = measured.memory_bandwidth or device.memory_bandwidth
    peak = _peaks(device, measured)
    known = {rate.precision for rate in measured.matmuls}
    unhidden = {name: constants.MATMUL_BYTES_PER_FLOP * WIDTH[name] / 2 / raw for name in peak}
    return Rates(
        law=law,
        flop_seconds={name: 1 / rate + (0.0 if name in known else unhidden[name]) for name, rate in peak.items()},
        peak=peak,
        raw_bandwidth=raw,
        bandwidth=raw if measured.memory_bandwidth else raw * constants.MEMORY_EFFICIENCY,
        on_cpu=device.kind == "cpu",
        per_node=cluster.gpus_per_node,
        fast_domain=cluster.fast_domain,
        link=device.intra_node_bandwidth * constants.LINK_EFFICIENCY,
        network=cluster.inter_node_bandwidth / cluster.gpus_per_node,
        link_latency=cluster.intra_node_latency,
        network_latency=cluster.inter_node_latency,
        to_host=measured.device_to_host or device.host_bandwidth * constants.LINK_EFFICIENCY,
        from_host=measured.host_to_device or device.host_bandwidth * constants.LINK_EFFICIENCY,
        adam_bandwidth=measured.adam_bandwidth or constants.HOST_MEMORY_BANDWIDTH,
        disk_read=measured.disk_read or cluster.nvme_read_bandwidth or constants.DISK_READ,
        disk_write=measured.disk_write or cluster.nvme_write_bandwidth or constants.DISK_WRITE,
        op_seconds=measured.op_seconds or constants.OP_SECONDS,
        matmuls=measured.matmuls,
        collectives=measured.collectives,
        elementwise=measured.elementwise,
        attention=measured.attention,
        loss=measured.loss,
    )


def _peaks(device: Device, measured: Measurements) -> dict[str, float]:
    """FLOP/s by precision: the best measured, else the datasheet's; without a unit the next wider type's."""
    known = {"fp32": device.fp32_flops, "fp16": device.fp16_flops, "bf16": device.bf16_flops}
    for precision in known:
        rates = [rate.flops_per_second for rate in measured.matmuls if rate.precision == precision]
        known[precision] = max(rates, default=known[precision])
    known["fp8"] = device.fp8_flops or known["bf16"]
    known["fp4"] = device.fp4_flops or known["fp8"]
    return known
