"""Disks: where runs, models and compiled ops go, whether there is room, and what the Hugging Face cache is set to."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine
from toolkit.units import GiB, human_bytes

_LEAST_RUN_BYTES = 20 * GiB
_NO_RUN_BYTES = GiB
_LEAST_INODES = 10_000
_NETWORK_DISKS = {"afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3",
                  "smbfs", "wekafs"}  # fmt: skip
_COUNT_SECONDS = 0.5
"""For adding up the cache's files; on a network disk it would take minutes."""


def hub_home(machine: Machine) -> Path:
    """Where huggingface_hub keeps everything (huggingface_hub/constants.py)."""
    cache = Path(machine.set("XDG_CACHE_HOME") or machine.home / ".cache")
    return Path(machine.set("HF_HOME") or cache / "huggingface").expanduser()


def hub_cache(machine: Machine) -> Path:
    """Where it keeps models."""
    given = machine.set("HF_HUB_CACHE") or machine.set("HUGGINGFACE_HUB_CACHE")
    return Path(given).expanduser() if given else hub_home(machine) / "hub"


def builds_root(machine: Machine) -> Path:
    """Where torch keeps what it compiles."""
    cache = Path(machine.set("XDG_CACHE_HOME") or machine.home / ".cache")
    return Path(machine.set("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions").expanduser()


def examine_storage(machine: Machine) -> Section:
    """The probe."""
    cache = hub_cache(machine)
    places = {"current folder": machine.folder, "Hugging Face cache": cache, "compiled ops": builds_root(machine)}
    mounts = parse_mounts(machine.read("proc/self/mounts") or "")
    facts: dict[str, Any] = {"places": {}}
    findings: list[Finding] = []
    try:
        places["temporary files"] = Path(tempfile.gettempdir())
    except OSError:
        told = "no folder for temporary files can be written: TMPDIR, /tmp, /var/tmp"
        effect = "compilers and libraries fail; nothing was tried here"
        findings.append(Finding("error", "no-temporary-folder", told, effect, "free some room, or set TMPDIR"))
    for name, path in places.items():
        found = look_at(path, mounts)
        facts["places"][name] = found
        findings += judge_place(name, path, found)
    size, whole = folder_bytes(cache, seconds=_COUNT_SECONDS)
    facts |= {
        "cache_bytes": size,
        "cache_counted_whole": whole,
        "cache_unfinished_downloads": sum(1 for _ in cache.glob("models--*/blobs/*.incomplete")),
        "hub_token": bool(machine.set("HF_TOKEN") or (hub_home(machine) / "token").is_file()),
        "offline": machine.is_on("HF_HUB_OFFLINE") or machine.is_on("TRANSFORMERS_OFFLINE"),
    }
    return Section("storage", facts, (*findings, *judge_cache(facts, machine)))


def parse_mounts(text: str) -> list[tuple[str, str, frozenset[str]]]:
    """(folder, kind, options) of each line of /proc/self/mounts, the longest folder first."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4:
            folder = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1])
            found.append((folder, words[2], frozenset(words[3].split(","))))
    return sorted(found, key=lambda one: -len(one[0]))


def mount_of(path: Path, mounts: Sequence[tuple[str, str, frozenset[str]]]) -> tuple[str, frozenset[str]]:
    """Kind and options of the file system that a path is on; empty where it is not known."""
    parents = {str(one) for one in (path, *path.parents)}
    # Of two mounts on one folder the later hides the earlier; sorting has kept their order.
    found = [one for one in mounts if one[0] in parents]
    same = [one for one in found if one[0] == found[0][0]]
    return (same[-1][1], same[-1][2]) if same else ("", frozenset())


def look_at(path: Path, mounts: Sequence[tuple[str, str, frozenset[str]]]) -> dict[str, Any]:
    """Room, kind of disk, and whether it can be written; of a folder that is not there yet, its nearest parent."""
    there = next((one for one in (path.absolute(), *path.absolute().parents) if one.exists()), Path("/"))
    free: int | None = None
    total: int | None = None
    with contextlib.suppress(OSError):
        total, _, free = shutil.disk_usage(there)
    inodes = None
    with contextlib.suppress(OSError, AttributeError):  # Windows has none
        found = os.statvfs(there)
        inodes = found.f_favail if found.f_files else None
    kind, options = mount_of(there.resolve(), mounts)
    return {
        "free": free,
        "total": total,
        "free_files": inodes,
        "disk": kind or None,
        "network": kind in _NETWORK_DISKS,
        "runs_programs": "noexec" not in options,
        "writable": _writable(there),
    }


def _writable(folder: Path) -> bool:
    """Tried, as rights, read-only disks and quotas all decide."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
    except OSError:
        return False
    return True


def judge_place(name: str, path: Path, found: dict[str, Any]) -> Iterator[Finding]:
    """Whether a folder can be used for what it is for."""
    here = name == "current folder"
    moves = {
        "current folder": "change into a folder on a disk with room, or name one with -o",
        "Hugging Face cache": "set HF_HOME to a folder on a disk with room",
        "compiled ops": "set TORCH_EXTENSIONS_DIR to a folder on a local disk",
        "temporary files": "set TMPDIR to a folder that can be written",
    }
    what = f"{name} ({path})"
    if not found["writable"]:
        effect = {
            "current folder": "runs cannot be written here",
            "Hugging Face cache": "models and data sets of the hub cannot be fetched",
            "compiled ops": "DeepSpeed's ops are not compiled",
        }.get(name, "compilers and libraries fail")
        yield Finding("warning", "not-writable", f"{what} cannot be written", effect, moves[name])
        return
    free, files = found["free"], found["free_files"]
    if free is not None and free < (_NO_RUN_BYTES if not here else _LEAST_RUN_BYTES):
        blocks = free < _NO_RUN_BYTES and name != "Hugging Face cache"
        yield Finding(
            "error" if blocks else "warning",
            "little-disk",
            f"{what} has {human_bytes(free)} free",
            "a full checkpoint of 7B parameters has 94 GB, its model 14 GB; runs stop when the disk is full",
            moves[name],
        )
    if files is not None and files < _LEAST_INODES:
        told = f"{what}: its disk takes {files} more files"
        yield Finding("warning", "few-files", told, "writing fails with `No space left on device`", moves[name])
    if found["network"] and name in ("compiled ops", "Hugging Face cache"):
        told = f"{what} is on a network disk ({found['disk']})"
        effect = "file locks may hang there, and all ranks read through the network at start"
        yield Finding("note", "network-disk", told, effect, moves[name])
    if not found["runs_programs"] and name == "compiled ops":
        told = f"{what} is on a disk mounted noexec"
        effect = "compiled ops are not loaded: `failed to map segment from shared object`"
        yield Finding("error", "noexec", told, effect, moves[name])


def judge_cache(facts: dict[str, Any], machine: Machine) -> Iterator[Finding]:
    """What the variables of the Hugging Face libraries do."""
    if facts["offline"]:
        names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if machine.is_on(name)]
        told = f"{' and '.join(names)} set: nothing is fetched from the hub"
        effect = "hub ids work only for what the cache holds; folders always do"
        yield Finding("note", "offline", told, effect, command=f"unset {' '.join(names)}")
    if old := [name for name in ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE") if machine.set(name)]:
        told = f"{' and '.join(old)} set: transformers 5 does not read it"
        effect = "models are looked for, and fetched again, in the Hugging Face cache"
        yield Finding("warning", "old-cache-variable", told, effect, command=f'export HF_HUB_CACHE="${old[0]}"')
    if facts["cache_unfinished_downloads"]:
        told = f"the Hugging Face cache has {facts['cache_unfinished_downloads']} unfinished downloads"
        effect = "they go on at the next fetch, and take room until then"
        yield Finding("note", "unfinished-downloads", told, effect, "fetch the model again, or delete them")


def folder_bytes(folder: Path, *, seconds: float) -> tuple[int, bool]:
    """(bytes of the files below a folder, whether all were counted in the time); links are not followed."""
    deadline = time.monotonic() + seconds
    total, waiting = 0, [folder]
    while waiting:
        if time.monotonic() > deadline:
            return total, False
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return total, True
