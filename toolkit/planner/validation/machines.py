"""The machines of published runs: the catalog's device, and the network that the table states."""

import math
import re

from toolkit.errors import SpecError
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.specs.catalog_lookup import find_device, latency
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB

_RATE = (
    r"(?:\b(?P<before>\d+)\s*x\s*(?:[A-Za-z]\w*\s+)?)?(?<![\d.])(?P<rate>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>[GTgt])(?:b|[Bb]its?)(?:ps|/s)(?:\s*x\s*(?P<behind>\d+))?"
)
"""Bits, not bytes: 400Gbps, 8x200 Gb/s, 4x HDR 200 Gbit/s, 25Gb/s x 8."""


def cluster_of(run: MeasuredRun) -> ClusterSpec:
    """Nodes and devices of a row.

    Raises:
        SpecError: the catalog does not know its GPU, or the number of GPUs is not stated.
    """
    device, num_ranks = find_device(run.text("gpu")), run.count("n_gpus")
    if device is None:
        raise SpecError(f"the catalog has no device {run.text('gpu')!r}")
    if num_ranks is None:
        raise SpecError("n_gpus is not stated")
    per_node = min(num_ranks, run.count("gpus_per_node") or 8)
    num_nodes = math.ceil(num_ranks / per_node)
    cluster = ClusterSpec.resolve(f"{num_nodes}x{per_node}x{device.name}")
    changes: dict[str, object] = {}
    stated = run.number("gpu_mem_gb")
    if stated and abs(stated * GiB / device.memory_bytes - 1) > 0.1:
        changes["device"] = device.model_copy(update={"memory_bytes": int(stated * GiB)})
    if (network := _network(run, per_node)) is not None:
        changes["inter_node_bandwidth"] = network
    if re.search(r"\bEFA", run.text("interconnect")):
        changes["inter_node_latency"] = latency("efa")
    return cluster.model_copy(update=changes)


def _network(run: MeasuredRun, per_node: int) -> float | None:
    """Bytes/s of one node in one direction, where the row states bits/s: per node, or per GPU if it says so.

    The rate of NVLink is no network's.
    """
    clauses = re.split(r"[;,]", run.text("interconnect"))
    for place, clause in enumerate(clauses):
        match = re.search(_RATE, clause)
        if match is None or clause.strip().lower().startswith("nvlink"):
            continue
        adapters = int(match["before"] or match["behind"] or 1)
        if re.search(r"per gpu", ",".join(clauses[place:]), re.IGNORECASE) and adapters != per_node:
            adapters *= per_node
        scale = 1e12 if match["unit"] in "Tt" else 1e9
        return float(match["rate"]) * scale / 8 * adapters
    return None
