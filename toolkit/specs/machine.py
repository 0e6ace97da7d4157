"""What this machine has, read from files: no torch, no driver library, no other process."""

import os
import re
import socket
from pathlib import Path

from toolkit.errors import MachineError


def gpu_names(root: Path = Path("/")) -> list[str]:
    """The driver's names of the NVIDIA GPUs that a CUDA program started here would see; empty without any.

    Args:
        root: where /proc and /dev are.

    Raises:
        MachineError: GPUs are there and cannot be named, or CUDA_VISIBLE_DEVICES chooses parts of a GPU.
    """
    minors = {int(match[1]) for path in root.glob("dev/nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))}
    # A container sees every GPU of the host under /proc and only its own under /dev.
    gpus = [gpu for gpu in _driver_entries(root) if int(gpu.get("Device Minor", -1)) in minors]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not minors or visible == "":
        return []
    if not gpus:
        raise MachineError(
            f"/dev has {len(minors)} NVIDIA GPUs that /proc/driver/nvidia/gpus does not name; "
            "pass --cluster, as in --cluster 8xA100-80GB"
        )
    chosen = gpus if visible is None else _chosen(gpus, visible)
    return [gpu["Model"] for gpu in chosen]


def _driver_entries(root: Path) -> list[dict[str, str]]:
    """The `key: value` lines of each GPU, in PCI order."""
    entries = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        lines = (line.partition(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
        entries.append({key.strip(): value.strip() for key, _, value in lines})
    return entries


def _chosen(gpus: list[dict[str, str]], visible: str) -> list[dict[str, str]]:
    """CUDA's own rule: indices or the beginnings of UUIDs, up to the first that is not valid."""
    chosen: list[dict[str, str]] = []
    for word in (word.strip() for word in visible.split(",")):
        if word.startswith("MIG-"):
            raise MachineError(
                f"CUDA_VISIBLE_DEVICES={visible} chooses parts of a GPU (MIG), whose size is not in the catalog; "
                "pass --cluster with a YAML file of the part's numbers"
            )
        if word.isdecimal() and int(word) < len(gpus):
            chosen.append(gpus[int(word)])
        elif found := [gpu for gpu in gpus if word.startswith("GPU-") and gpu.get("GPU UUID", "").startswith(word)]:
            chosen.append(found[0])
        else:
            break
    return chosen


def cpu_limits(root: Path = Path("/")) -> tuple[int, int]:
    """(processors, bytes of memory) that this process may use, containers' limits included.

    Raises:
        MachineError: the system does not tell its memory.
    """
    # macOS has no sched_getaffinity.
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [_system_memory(root)]
    for file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = root / file
        # cgroup v2 writes "max", v1 a number beyond all memory, where there is no limit.
        if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdecimal():
            limits.append(int(text))
    return num_cpus, min(limits)


def _system_memory(root: Path) -> int:
    meminfo = root / "proc/meminfo"
    if meminfo.is_file() and (match := re.search(r"MemTotal:\s*(\d+) kB", meminfo.read_text(encoding="ascii"))):
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        raise MachineError("this system does not tell its memory; pass --cluster, as in --cluster 2xcpu") from None


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take, caches given up and containers' limits included; 0 if nothing tells."""
    meminfo, found = root / "proc/meminfo", []
    if meminfo.is_file() and (match := re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text(encoding="ascii"))):
        found.append(int(match[1]) * 1024)
    limit, used = root / "sys/fs/cgroup/memory.max", root / "sys/fs/cgroup/memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
        found.append(max(int(text) - int(used.read_text(encoding="ascii")), 0))
    return min(found, default=0)


def local_sockets() -> dict[str, str]:
    """Environment in which ranks of one machine listen on its loopback only.

    gloo and NCCL ask nobody who connects, and listen on the address that the host's name stands for unless told where.
    """
    loopback = sorted({name for _, name in socket.if_nameindex()} & {"lo", "lo0"})
    return {f"{library}_SOCKET_IFNAME": loopback[0] for library in ("GLOO", "NCCL") if loopback}
