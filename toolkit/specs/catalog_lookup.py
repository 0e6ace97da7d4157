"""Devices and node types by name, from catalog/devices.yaml and catalog/nodes.yaml."""

import difflib
import functools
import re
from pathlib import Path
from typing import Any

from toolkit.errors import SpecError
from toolkit.specs.base import read_catalog
from toolkit.specs.device import Device
from toolkit.units import GiB, parse_bytes

EXAMPLES = "8xA100-80GB (one node), 2x8xH100-80GB (nodes x GPUs), 16xdgx-h100 (node types), 2xcpu, or a YAML file"

# 80GB, 40.5GiB; as a word of its own also 40G and 40 GB: the 10G of an A10G is no size.
_SIZE = re.compile(
    r"((?<![a-z0-9.])[0-9]+(?= ?g(?:i?b)?(?![a-z0-9.]))|[0-9]+(?:\.[0-9]+)?(?=gi?b(?![a-z]))) ?g(?:i?b)?"
)
_FORMS = ("pcie", "nvl", "sxm")
# "RTX 4090 D" and "RTX 3090 Ti" are other products than the names they begin with.
_OTHER_PRODUCT = {"ada", "d", "laptop", "max", "maxq", "mig", "mobile", "pro", "super", "ti", "x"}


def device_fields(name: str, where: str, *, num_nodes: int, gpus_per_node: int) -> dict[str, Any]:
    """The fields of a ClusterSpec of devices of this name, each node with its devices' usual shares.

    Raises:
        SpecError: no device of that name; `where` opens the message.
    """
    entry = _named(name, where, "devices")
    node = entry["node"]
    # A rack's NVLink domain holds whole machines only.
    fast_domain = max(1, node.get("fast_domain", 0) // gpus_per_node) * gpus_per_node
    return {
        "name": f"{_count(num_nodes)}{gpus_per_node}x{entry['name']}",
        "num_nodes": num_nodes,
        "gpus_per_node": gpus_per_node,
        "device": _device_fields(entry),
        "host_memory_bytes": gpus_per_node * parse_bytes(node["host_memory_per_gpu"]),
        "inter_node_bandwidth": gpus_per_node * node["network_per_gpu"],
        "inter_node_latency": latency(node["network"]),
        "fast_domain": fast_domain,
    }


def node_fields(name: str, where: str, *, num_nodes: int = 1) -> dict[str, Any]:
    """The fields of a ClusterSpec of machines of a known type.

    Raises:
        SpecError: no node type of that name; `where` opens the message.
    """
    entry = _named(name, where, "nodes")
    known = {
        "name": f"{_count(num_nodes)}{entry['name']}",
        "num_nodes": num_nodes,
        "gpus_per_node": entry["gpus_per_node"],
        "device": _device_fields(_by_name("devices")[_plain(entry["device"])]),
        "host_memory_bytes": entry["host_memory_bytes"],
        "inter_node_bandwidth": entry["network_bytes"],
        "inter_node_latency": latency(entry["network"]),
        "fast_domain": entry.get("fast_domain", entry["gpus_per_node"]),
    }
    if nvme := entry.get("nvme"):
        known["nvme_bytes"] = int(nvme["size"])
        known |= {"nvme_read_bandwidth": nvme["read"], "nvme_write_bandwidth": nvme["write"]}
    return known


def is_node_type(name: str) -> bool:
    """True for a name or alias of catalog/nodes.yaml."""
    return _plain(name) in _by_name("nodes")


def board_words(cluster: str) -> str | None:
    """Which board the name of a family was taken for, as the V100 of '8xV100'; None where the name is one board's."""
    name = re.sub(r"^(\s*[0-9]+\s*x\s*)*", "", cluster.strip(), flags=re.IGNORECASE).lower()
    entry = _by_name("devices").get(_plain(name))
    if entry is None or _plain(name) == _plain(entry["name"]):
        return None
    boards = [one["name"] for one in _read("devices")["devices"] if one["name"].lower().startswith(f"{name}-")]
    others = [board for board in boards if board != entry["name"]]
    return (
        f"{name.upper()} was taken for {entry['name']}; the catalog also has {', '.join(others)}." if others else None
    )


def latency(kind: str) -> float:
    """Seconds that one message takes over one hop of a link or network, as nvlink or infiniband."""
    return float(_read("nodes")["latencies"][kind]["seconds"])


@functools.cache
def find_device(text: str) -> Device | None:
    """The device that published tables mean by `text`, as in 'H100-80GB-SXM (DGX)'; None where they do not say.

    A form factor or memory size in the text must be the device's own. Without one the usual board is taken: 'A100' is
    the A100-80GB of SXM form.
    """
    words = text.lower()
    if entry := _by_name("devices").get(_plain(words)):
        return Device.parse(_device_fields(entry), source=text)
    if node := _by_name("nodes").get(_plain(words)):
        return find_device(node["device"])
    size = _SIZE.search(words)
    tokens = re.findall(r"[a-z0-9]+", _SIZE.sub(" ", re.sub(r"\b[0-9]+\s*x\s*", " ", words)))
    for family, entries in _families().items():
        if (rest := _without(tokens, family)) is None or set(rest) & _OTHER_PRODUCT:
            continue
        forms = [form for form in _FORMS for token in rest if re.fullmatch(rf"{form}[0-9]?", token)]
        fitting = [one for one in entries if not forms or _form(one, entries) == forms[0]]
        if size:
            fitting = sorted(fitting, key=lambda one: _distance(one, float(size[1])))
            fitting = [one for one in fitting if _distance(one, float(size[1])) < 0.1]
        return Device.parse(_device_fields(fitting[0]), source=text) if fitting else None
    return None


def _without(tokens: list[str], family: str) -> list[str] | None:
    """The tokens around those that spell `family`; None where none do."""
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            if "".join(tokens[start:end]) == family:
                return tokens[:start] + tokens[end:]
    return None


def _form(entry: dict[str, Any], family: list[dict[str, Any]]) -> str:
    """pcie, nvl or sxm; a device of one form only, as the L4, has the form of its link."""
    named = entry["name"].lower().rpartition("-")[2]
    if named in _FORMS:
        return str(named)
    return "sxm" if entry["link"] != "pcie" or len(family) > 1 else "pcie"


def _distance(entry: dict[str, Any], size: float) -> float:
    """How far a size in a text is from a device's memory, as a share: nominal, or as torch reports it."""
    known = [float(match[1]) for name in _names(entry) for match in _SIZE.finditer(name.lower())]
    return min(abs(size / one - 1) for one in (*known, parse_bytes(entry["memory_bytes"]) / GiB))


@functools.cache
def _families() -> dict[str, list[dict[str, Any]]]:
    """What every name of a device is without size and form -> the devices, the usual one first; longest names first."""
    families: dict[str, list[dict[str, Any]]] = {}
    for entry in _read("devices")["devices"]:
        for name in _names(entry):
            bare = _SIZE.sub("", name.lower())
            family = _plain(re.sub(r"(?<![a-z])(pcie|nvl|sxm[0-9]?|oam|hbm[0-9]e?)(?![a-z0-9])", "", bare))
            known = families.setdefault(family, [])
            if entry not in known:
                known.insert(0 if _by_name("devices").get(family) is entry else len(known), entry)
    return dict(sorted(families.items(), key=lambda item: -len(item[0])))


def _named(name: str, where: str, kind: str) -> dict[str, Any]:
    """The entry of that name among `devices` or `nodes`; the refusal shows the nearest of both."""
    if entry := _by_name(kind).get(_plain(name)):
        return entry
    word = {"devices": "device", "nodes": "node type"}[kind]
    devices, nodes = _nearest(name, "devices"), _nearest(name, "nodes")
    words = "the nearest"
    if not devices and not nodes:
        words = "known"
        devices, nodes = (sorted({one["name"] for one in _by_name(every).values()}) for every in ("devices", "nodes"))
    shown = [f"devices: {', '.join(devices)}"] * bool(devices) + [f"node types: {', '.join(nodes)}"] * bool(nodes)
    raise SpecError(f"{where}: no {word} {name!r} in the catalog, {words} {'; '.join(shown)}; or write {EXAMPLES}")


def _nearest(name: str, kind: str) -> list[str]:
    close = difflib.get_close_matches(_plain(name), _by_name(kind), n=12, cutoff=0.4)
    return list(dict.fromkeys(_by_name(kind)[key]["name"] for key in close))[:5]


def _device_fields(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("aliases", "node")}


def _count(num_nodes: int) -> str:
    return f"{num_nodes}x" if num_nodes > 1 else ""


def _names(entry: dict[str, Any]) -> list[str]:
    return [entry["name"], *entry["aliases"]]


def _plain(name: str) -> str:
    """A name without case, spaces, dashes and the vendor's words: 'NVIDIA A100-SXM4-80GB' -> 'a100sxm480gb'."""
    return re.sub(r"nvidia|amd instinct|tesla|geforce|[^a-z0-9]", "", name.lower())


@functools.cache
def _by_name(catalog: str) -> dict[str, dict[str, Any]]:
    """Every plain name of a device or node type -> its entry."""
    return {_plain(name): entry for entry in _read(catalog)[catalog] for name in _names(entry)}


@functools.cache
def _read(catalog: str) -> dict[str, Any]:
    return read_catalog(Path(__file__).with_name("catalog") / f"{catalog}.yaml")
