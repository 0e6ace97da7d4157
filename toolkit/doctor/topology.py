"""How GPUs are joined: the matrices of `nvidia-smi topo`, read and said in words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.doctor.finding import Finding
from toolkit.specs.catalog_lookup import find_device

MATRIX = ("nvidia-smi", "topo", "-m")
PEERS = ("nvidia-smi", "topo", "-p2p", "r")
"""Which GPUs read each other's memory."""

_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_WAYS = {
    "PIX": "one PCIe bridge",
    "PXB": "several PCIe bridges",
    "PHB": "PCIe and the processor's host bridge",
    "NODE": "PCIe and two host bridges of one NUMA node",
    "SYS": "PCIe and the link between processors",
    "SOC": "PCIe and the link between processors",
}
"""The last is what old drivers call SYS."""
_MESHES = ("V100", "P100")
"""GPUs whose boards of eight have NVLinks between some pairs only."""


@dataclass(frozen=True)
class Topology:
    """The links of a machine's GPUs."""

    links: dict[tuple[int, int], str]
    """Of each pair, the smaller number first: NV18, PIX, PXB, PHB, NODE or SYS."""
    numa: dict[int, str]
    """GPU -> its NUMA node, where it is told."""
    adapters: dict[str, str]
    """Network adapter -> the shortest way from it to a GPU."""

    @property
    def num_nvlinked(self) -> int:
        """Pairs that NVLinks join."""
        return sum(link.startswith("NV") for link in self.links.values())


def parse_topology(text: str) -> Topology | None:
    """From `nvidia-smi topo -m`, tabs or spaces between the columns; None where there is no matrix."""
    lines = [_STYLES.sub("", line).strip() for line in text.splitlines()]
    head = next((line for line in lines if re.match(r"GPU0\s|GPU0$", line)), None)
    if head is None:
        return None
    # The last columns have names of two words, and cells that may be empty.
    names = re.split(r"\s*(?:CPU Affinity|NUMA Affinity)", head)[0].split()
    affinities = head.count("CPU Affinity")
    links: dict[tuple[int, int], str] = {}
    numa: dict[int, str] = {}
    adapters: dict[str, str] = {}
    for line in lines[lines.index(head) + 1 :]:
        cells = line.split()
        if not cells or cells[0] not in names:
            continue
        row = dict(zip(names, cells[1:], strict=False))
        own = _gpu_number(cells[0])
        if own is None:
            to_gpus = [way for name, way in row.items() if _gpu_number(name) is not None]
            adapters[cells[0]] = min(to_gpus, key=_distance, default="")
            continue
        for name, way in row.items():
            other = _gpu_number(name)
            if other is not None and other > own:
                links[own, other] = way
        rest = cells[1 + len(names) :]
        if affinities and len(rest) > 1 and re.fullmatch(r"[\d,-]+", rest[1]):
            numa[own] = rest[1]
    return Topology(links, numa, adapters)


def parse_peers(text: str) -> dict[tuple[int, int], bool]:
    """From `nvidia-smi topo -p2p r`: whether the GPUs of each pair read each other's memory."""
    found = parse_topology(text)
    return {pair: status == "OK" for pair, status in found.links.items()} if found else {}


def topology_words(topology: Topology, num_gpus: int) -> list[str]:
    """What the matrix says, as sentences."""
    if not topology.links:
        return []
    groups: dict[str, list[tuple[int, int]]] = {}
    for pair, link in sorted(topology.links.items()):
        groups.setdefault(link, []).append(pair)
    told = []
    for link, pairs in sorted(groups.items(), key=lambda one: _distance(one[0])):
        way = f"{link[2:]} NVLinks" if link.startswith("NV") else f"{_WAYS.get(link, 'an unknown way')} ({link})"
        whole = len(pairs) == num_gpus * (num_gpus - 1) // 2
        named = ", ".join(f"{first}-{second}" for first, second in pairs)
        told.append(f"every pair of the {num_gpus} GPUs: {way}" if whole and num_gpus > 2 else f"GPUs {named}: {way}")
    nodes = sorted(set(topology.numa.values()))
    if len(nodes) > 1:
        by_node = {node: [str(gpu) for gpu, own in topology.numa.items() if own == node] for node in nodes}
        told.append("NUMA: " + "; ".join(f"node {node} has GPUs {', '.join(gpus)}" for node, gpus in by_node.items()))
    near = [name for name, way in topology.adapters.items() if way in ("PIX", "PXB")]
    if topology.adapters:
        many = "" if len(topology.adapters) == 1 else "s"
        told.append(f"{len(topology.adapters)} network adapter{many}, {len(near)} of them next to a GPU")
    return told


def judge_topology(topology: Topology, names: list[str], *, peers: dict[tuple[int, int], bool]) -> Iterator[Finding]:
    """Links that are missing, weaker than others, or slow for tensor parallelism.

    Args:
        topology: the matrix.
        names: of the GPUs.
        peers: whether pairs read each other's memory; empty where it is not known.
    """
    if not topology.links:
        return
    counts = {pair: int(link[2:]) for pair, link in topology.links.items() if re.fullmatch(r"NV\d+", link)}
    bare = [pair for pair in topology.links if pair not in counts]
    devices = [find_device(name) for name in names]
    soldered = bool(devices) and all(device is not None and device.link == "nvlink" for device in devices)
    mesh = any(word in name for name in names for word in _MESHES)
    if bare and soldered and (not counts or not mesh):
        yield Finding(
            "warning",
            "nvlink-missing",
            f"{len(bare)} of {len(topology.links)} pairs of {names[0]} have no NVLink between them, the board has them",
            "collectives go over PCIe, at a tenth of the rate; a virtual machine may hide the links",
            "look at `nvidia-smi nvlink --status`, and whether nvidia-fabricmanager runs",
            "nvidia-smi nvlink --status",
        )
    elif counts and len(set(counts.values())) > 1 and not bare and len(topology.links) > 1:
        weak = [f"{first}-{second}" for (first, second), links in counts.items() if links < max(counts.values())]
        yield Finding(
            "note",
            "nvlink-uneven",
            f"GPUs {', '.join(weak)} have fewer NVLinks between them than others ({min(counts.values())} of "
            f"{max(counts.values())})",
            "on boards without NVSwitch it is so made; else links are down, and the weakest decides",
            command="nvidia-smi nvlink --status",
        )
    elif bare and any(topology.links[pair] in ("SYS", "SOC", "NODE") for pair in bare):
        told = "pairs of GPUs without NVLink are joined across host bridges or processors"
        effect = "tensor parallelism between them waits for PCIe; ZeRO and pipelines send less"
        remedy = "plan with tp inside NVLinked pairs, or --tp 1; `toolkit calibrate` measures what the links give"
        yield Finding("note", "slow-links", told, effect, remedy)
    without = [f"{first}-{second}" for (first, second), peer in peers.items() if not peer]
    if without and len(without) == len(peers):
        told = "GPUs do not read each other's memory (P2P), as GeForce cards and virtual machines do not"
        effect = "NCCL copies through host memory: small /dev/shm stops it, and rates are about half of PCIe's"
        yield Finding("note", "no-p2p", told, effect, "nothing, it trains; plan with `toolkit calibrate`'s rates")
    elif without:
        told = f"GPUs {', '.join(without)} do not read each other's memory (P2P), the others do"
        yield Finding("note", "no-p2p", told, "NCCL copies between these through host memory", "nothing, it trains")


def _gpu_number(name: str) -> int | None:
    match = re.fullmatch(r"GPU(\d+)", name)
    return int(match[1]) if match else None


def _distance(way: str) -> int:
    """For ordering, the nearest first."""
    return -1 if way.startswith("NV") else list(_WAYS).index(way) if way in _WAYS else len(_WAYS)
