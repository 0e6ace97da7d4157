"""The machines: how many accelerators, what each can do, and how they are connected."""

import difflib
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import Self

from toolkit.errors import MachineError, SpecError
from toolkit.specs.base import Spec, read_mapping
from toolkit.specs.machine import cpu_limits, gpu_names
from toolkit.specs.workload import Precision
from toolkit.units import parse_bytes

EXAMPLES = "8xA100-80GB (one node), 2x8xH100-80GB (nodes x GPUs), 2xcpu, or a YAML file"

Bytes = Annotated[
    int, BeforeValidator(lambda given: parse_bytes(given) if isinstance(given, str) else given), Field(gt=0)
]
"""A size in bytes; a file may write it as "80 GiB"."""


class Device(Spec):
    """One accelerator: a GPU, or a CPU process of a rehearsal."""

    name: str
    """Name in the catalog, or the file's own."""
    kind: Literal["cuda", "cpu"]
    """What runs the kernels: an NVIDIA GPU, or a processor."""
    memory_bytes: Bytes
    """Memory that a process can use, in bytes; less than the size in the product's name."""
    bf16_flops: float = Field(gt=0)
    """Peak of bf16 matrix multiplication, FLOP/s, dense; the fp32 rate where bf16 is not supported."""
    fp16_flops: float = Field(gt=0)
    """Peak of fp16 matrix multiplication, FLOP/s, dense with fp32 accumulation."""
    fp32_flops: float = Field(gt=0)
    """Peak of fp32 arithmetic without tensor cores, FLOP/s; TF32 is coarser and not counted."""
    supports_bf16: bool
    """True where bf16 runs: GPUs since Ampere, and CPUs."""
    memory_bandwidth: float = Field(gt=0)
    """Memory traffic, bytes/s."""
    intra_node_bandwidth: float = Field(gt=0)
    """To the other devices of the node (NVLink, else PCIe), bytes/s per device in one direction."""
    host_bandwidth: float = Field(default=31.5e9, gt=0)
    """To host memory (PCIe, NVLink-C2C), bytes/s per device in one direction; PCIe 4.0 x16 where not given."""
    source: str
    """Where the numbers are published."""

    def peak_flops(self, precision: Precision) -> float:
        """Dense matrix-multiplication peak of a precision, FLOP/s."""
        return {"bf16": self.bf16_flops, "fp16": self.fp16_flops, "fp32": self.fp32_flops}[precision]


class ClusterSpec(Spec):
    """Equal nodes of equal devices."""

    name: str
    """How the cluster is called in plans and reports, as in 2x8xH100-80GB."""
    num_nodes: int = Field(default=1, gt=0)
    """Machines."""
    gpus_per_node: int = Field(gt=0)
    """Devices, and so ranks, per machine."""
    device: Device
    """The device; a YAML file may give a catalog name instead."""
    host_memory_bytes: Bytes
    """Main memory per node in bytes; with CPU devices it is the same memory as theirs."""
    inter_node_bandwidth: float = Field(gt=0)
    """Network of one node, bytes/s in one direction over all its adapters."""

    @property
    def world_size(self) -> int:
        """Devices of all nodes: one rank each."""
        return self.num_nodes * self.gpus_per_node

    @classmethod
    def resolve(cls, text: str) -> Self:
        """Read NODESxGPUSxNAME, GPUSxNAME, NAME (one device) or the path of a YAML file.

        The name is one of toolkit/specs/catalog/devices.yaml, which also gives host memory and network.

        Raises:
            SpecError: bad syntax, a zero count, an unknown device, or a file with faults.
        """
        if text.lower().endswith((".yaml", ".yml", ".json")) or "/" in text:
            return cls.from_file(Path(text).expanduser())
        count = r"(?:([0-9]{1,6})\s*x\s*)?"
        match = re.fullmatch(rf"\s*{count}{count}((?![0-9]+\s*x)[a-z0-9][\w. -]*)", text, re.IGNORECASE | re.ASCII)
        if match is None:
            raise SpecError(f"{text!r} is not a cluster; write {EXAMPLES}")
        counts = [int(count) for count in match.groups()[:2] if count]
        if 0 in counts:
            raise SpecError(f"{text!r} has a count of 0; every count is at least 1, as in {EXAMPLES}")
        num_nodes, gpus_per_node = [1, 1, *counts][-2:]
        entry = _entry(match[3].strip(), text)
        return cls.parse(_sized(entry, num_nodes=num_nodes, gpus_per_node=gpus_per_node), source=text)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a YAML file with the fields of this class.

        `device` may be a catalog name; host memory and network then come from the catalog unless given. `name` is the
        file's own name unless given.

        Raises:
            SpecError: the file is missing or has faults.
        """
        given = {"name": path.stem, **read_mapping(path)}
        if isinstance(given.get("device"), str):
            gpus = given.get("gpus_per_node")
            entry = _entry(given["device"], f"{path}: device")
            known = _sized(entry, num_nodes=1, gpus_per_node=gpus if isinstance(gpus, int) and gpus > 0 else 1)
            known.pop("gpus_per_node")
            given = {**known, **given, "device": known["device"]}
        return cls.parse(given, source=str(path))

    @classmethod
    def detect(cls) -> Self:
        """This machine: its visible NVIDIA GPUs by the driver's names, else up to two CPU processes.

        Reads /proc, /dev and CUDA_VISIBLE_DEVICES only. With CPU devices the host's memory is shared out evenly.

        Raises:
            MachineError: GPUs of several kinds, or one that the catalog does not know.
        """
        if names := gpu_names():
            if len(set(names)) > 1:
                raise MachineError(
                    f"this machine has {' and '.join(sorted(set(names)))}, ranks need equal GPUs; "
                    "choose some with CUDA_VISIBLE_DEVICES, or pass --cluster"
                )
            try:
                entry = _entry(names[0], "this machine")
            except SpecError as error:
                raise MachineError(f"{error}; pass it with --cluster") from None
            return cls.parse(_sized(entry, num_nodes=1, gpus_per_node=len(names)), source="this machine")
        num_cpus, memory_bytes = cpu_limits()
        num_processes = min(num_cpus, 2)
        given = _sized(_entry("cpu", "this machine"), num_nodes=1, gpus_per_node=num_processes)
        given["device"] = {**given["device"], "memory_bytes": memory_bytes // num_processes}
        return cls.parse({**given, "host_memory_bytes": memory_bytes}, source="this machine")


def _sized(entry: dict[str, Any], *, num_nodes: int, gpus_per_node: int) -> dict[str, Any]:
    """The fields of a ClusterSpec; `node` holds one device's share, so a node has that times its devices."""
    device = {key: value for key, value in entry.items() if key not in ("aliases", "node")}
    nodes = f"{num_nodes}x" if num_nodes > 1 else ""
    return {
        "name": f"{nodes}{gpus_per_node}x{entry['name']}",
        "num_nodes": num_nodes,
        "gpus_per_node": gpus_per_node,
        "device": device,
        "host_memory_bytes": gpus_per_node * parse_bytes(entry["node"]["host_memory_per_gpu"]),
        "inter_node_bandwidth": gpus_per_node * entry["node"]["network_per_gpu"],
    }


def _entry(name: str, where: str) -> dict[str, Any]:
    """The catalog's facts about a device, found by name, alias or the driver's name."""
    catalog = _catalog()
    if entry := catalog.get(_plain(name)):
        return entry
    close = difflib.get_close_matches(_plain(name), catalog, n=6, cutoff=0.4)
    nearest = list(dict.fromkeys(catalog[key]["name"] for key in close))[:3]
    known = nearest or sorted({entry["name"] for entry in catalog.values()})
    words = "the nearest" if nearest else "known"
    raise SpecError(f"{where}: no device {name!r} in the catalog, {words}: {', '.join(known)}; or write {EXAMPLES}")


def _plain(name: str) -> str:
    """A name without case, spaces, dashes and the vendor's words: 'NVIDIA A100-SXM4-80GB' -> 'a100sxm480gb'."""
    return re.sub(r"nvidia|tesla|geforce|[^a-z0-9]", "", name.lower())


@functools.cache
def _catalog() -> dict[str, dict[str, Any]]:
    """Every plain name -> the device's entry."""
    entries = read_mapping(Path(__file__).with_name("catalog") / "devices.yaml")["devices"]
    return {_plain(name): entry for entry in entries for name in (entry["name"], *entry["aliases"])}
