"""Memory and processors: of the machine, of the container or job around this process, and /dev/shm."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.interpreter import container_of
from toolkit.doctor.machine import Machine
from toolkit.units import GiB, MiB, human_bytes

SHM_PER_RANK = 66 * MiB
"""DeepSpeed's collectives of processors: two buffers of 32 MiB and two of 1 MiB (csrc/cpu/comm/shm.cpp)."""
_SHM_FOR_NCCL = GiB
"""NCCL takes some 10 MiB for each pair of GPUs that share no other way; loaders put batches there."""
_LEAST_MEMORY = 4 * GiB
_LEAST_PROCESSES = 2048
"""Threads count: a rank on a GPU has some hundred."""


def examine_memory(machine: Machine) -> Section:
    """The probe."""
    meminfo = parse_meminfo(machine.read("proc/meminfo") or "")
    limits = group_limits(machine)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, Any] = {
        "memory": meminfo.get("MemTotal"),
        "memory_available": meminfo.get("MemAvailable"),
        "memory_limit": limits.get("memory"),
        "out_of_memory_kills": limits.get("oom_kills"),
        "processors": cpus,
        "processor_limit": limits.get("processors"),
        "process_limit": limits.get("processes"),
        "cpu_features": cpu_features(machine.read("proc/cpuinfo") or ""),
        "numa_nodes": len(list(machine.root.glob("sys/devices/system/node/node[0-9]*"))) or None,
    }
    shm = machine.root / "dev/shm"
    if machine.system == "linux":
        facts["shm"] = facts["shm_free"] = None
        with contextlib.suppress(OSError):
            facts["shm"], _, facts["shm_free"] = shutil.disk_usage(shm)
    findings = [*judge_limits(facts), *judge_shm(facts, container=container_of(machine), system=machine.system)]
    return Section("memory", facts, tuple(findings))


def parse_meminfo(text: str) -> dict[str, int]:
    """The lines of /proc/meminfo, in bytes."""
    return {name: int(number) * 1024 for name, number in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def cpu_features(text: str) -> list[str]:
    """Of /proc/cpuinfo, those that decide about speed here."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "sve", "bf16", "asimdhp")
    return [name for name in known if flags and name in flags[1].split()]


def group_limits(machine: Machine) -> dict[str, float]:
    """What the control groups around this process allow: memory, processes, processors; kills for want of memory.

    A limit may be set on any of the groups that this one is in.
    """
    found: dict[str, float] = {}
    for folder in _group_folders(machine):
        for name, file in (("memory", "memory.max"), ("memory", "memory.limit_in_bytes"), ("processes", "pids.max")):
            text = (machine.read(f"{folder}/{file}") or "").strip()
            # "max", or in version 1 a number beyond all memory, is no limit.
            if text.isdecimal() and int(text) < 2**60:
                found[name] = min(found.get(name, float("inf")), int(text))
        if (share := _processors(machine, folder)) is not None:
            found["processors"] = min(found.get("processors", float("inf")), share)
        for file in ("memory.events", "memory.oom_control"):
            if match := re.search(r"^oom_kill (\d+)$", machine.read(f"{folder}/{file}") or "", re.MULTILINE):
                found["oom_kills"] = max(found.get("oom_kills", 0), int(match[1]))
    return {name: value if name == "processors" else int(value) for name, value in found.items()}


def _group_folders(machine: Machine) -> Iterator[str]:
    """Folders of this process's groups, of both versions, the innermost first."""
    for line in (machine.read("proc/self/cgroup") or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            bases = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        else:
            bases = [f"sys/fs/cgroup/{name}" for name in {controllers, *controllers.split(",")} if name]
        own = PurePosixPath("/" + path.lstrip("/"))
        for base in bases:
            # A container sees its own group as the root, while the path may be the host's.
            yield from (f"{base}{'' if str(one) == '/' else one}" for one in (own, *own.parents))


def _processors(machine: Machine, folder: str) -> float | None:
    quota, _, period = (machine.read(f"{folder}/cpu.max") or "").strip().partition(" ")
    if not quota:
        quota = (machine.read(f"{folder}/cpu.cfs_quota_us") or "").strip()
        period = (machine.read(f"{folder}/cpu.cfs_period_us") or "").strip()
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return None


def judge_limits(facts: dict[str, Any]) -> Iterator[Finding]:
    """Memory and processors that are less than they look."""
    limits = [facts[name] for name in ("memory", "memory_limit") if facts.get(name)]
    if limits and min(limits) < _LEAST_MEMORY:
        yield Finding(
            "warning",
            "little-memory",
            f"{human_bytes(min(limits))} of memory" + (" for this container or job" if facts["memory_limit"] else ""),
            "importing torch and DeepSpeed takes about 0.5 GiB for each rank; larger models end with SIGKILL",
            "give the container or job more (`docker run --memory`, `sbatch --mem`)",
        )
    if facts.get("out_of_memory_kills"):
        yield Finding(
            "warning",
            "oom-kills",
            f"the kernel has ended {facts['out_of_memory_kills']} processes of this container or job: no memory left",
            "ranks that vanish without a word (exit code -9) were among them",
            "give it more memory, or plan for less: `toolkit plan` counts host memory too",
        )
    share, cpus = facts.get("processor_limit"), facts["processors"]
    if share and share < cpus - 0.5:
        yield Finding(
            "note",
            "processor-limit",
            f"this container or job has {share:g} processors, programs see {cpus}",
            "libraries start a thread for each that they see, and the threads wait for one another",
            command=f"export OMP_NUM_THREADS={max(1, int(share))}",
        )
    most = facts.get("process_limit")
    if most and most < _LEAST_PROCESSES:
        told = f"this container or job may have {most} processes and threads"
        effect = "a rank has some hundred threads: starting one ends with `can't start new thread`"
        yield Finding("warning", "process-limit", told, effect, "start it with more: `docker run --pids-limit=-1`")


def judge_shm(facts: dict[str, Any], *, container: str | None, system: str) -> Iterator[Finding]:
    """Room in /dev/shm, which ranks on one machine talk through."""
    if system != "linux":
        return
    remedies = {
        "docker": "start the container with more: `docker run --shm-size=16g`, or `--ipc=host`",
        "podman": "start the container with more: `podman run --shm-size=16g`",
        "kubernetes": "mount an emptyDir of `medium: Memory` at /dev/shm",
    }
    remedy = remedies.get(container or "", "")
    command = "" if remedy else "sudo mount -o remount,size=50% /dev/shm"
    effect = "on processors a rank dies in DeepSpeed's collectives and the others wait for it; NCCL and loaders fail"
    if facts["shm"] is None:
        yield Finding("error", "no-shm", "there is no /dev/shm", effect, "mount a tmpfs there", command)
    elif facts["shm_free"] < 2 * SHM_PER_RANK:
        told = f"/dev/shm has {human_bytes(facts['shm_free'])} free of {human_bytes(facts['shm'])}; two ranks need "
        told += human_bytes(2 * SHM_PER_RANK)
        if facts["shm"] >= 2 * SHM_PER_RANK:
            remedy, command = "remove what dead processes left there: torch_*, nccl-*, deepspeed_*", "ls -l /dev/shm"
        yield Finding("error", "small-shm", told, effect, remedy, command)
    elif facts["shm"] < _SHM_FOR_NCCL:
        told = f"/dev/shm has {human_bytes(facts['shm'])}; {human_bytes(_SHM_FOR_NCCL)} or more is usual"
        yield Finding(
            "warning", "small-shm", told, "more ranks, or loaders with workers, run out of it", remedy, command
        )
