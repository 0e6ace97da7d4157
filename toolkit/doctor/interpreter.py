"""Python and the system below it: what the wheels of the training half need of them."""

import importlib.util
import locale
import platform
import sys
from collections.abc import Iterator, Mapping

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine

OLDEST_GLIBC = (2, 28)
"""torch's wheels are manylinux_2_28."""
_CONTAINERS = {"docker": "docker", "kubepods": "kubernetes", "containerd": "containerd", "libpod": "podman"}
_SCHEDULERS = {"SLURM_JOB_ID": "slurm", "PBS_JOBID": "pbs", "LSB_JOBID": "lsf", "JOB_ID": "gridengine"}


def examine_interpreter(machine: Machine) -> Section:
    """The probe."""
    libc = libc_of(machine)
    facts = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": machine.system,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "libc": libc,
        "environment": _environment_kind(machine),
        "container": container_of(machine),
        "scheduler": next((name for key, name in _SCHEDULERS.items() if machine.set(key)), None),
        "wsl": is_wsl(machine),
        "encoding": locale.getpreferredencoding(do_setlocale=False),
    }
    findings = [*judge_system(machine.system, libc, wide=sys.maxsize > 2**32), *judge_python(facts, machine)]
    return Section("system", facts, tuple(findings))


def libc_of(machine: Machine) -> str | None:
    """Name and release of the C library; None where it is not known."""
    name, release = platform.libc_ver()
    if name == "glibc":
        return f"{name} {release}".strip()
    return "musl" if any(machine.root.glob("lib/ld-musl-*")) else None


def container_of(machine: Machine) -> str | None:
    """The kind of container around this process, as far as it shows."""
    if machine.set("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if (machine.root / ".dockerenv").exists():
        return "docker"
    if (machine.root / "run/.containerenv").exists():
        return "podman"
    if machine.set("APPTAINER_CONTAINER") or machine.set("SINGULARITY_CONTAINER"):
        return "apptainer"
    groups = machine.read("proc/self/cgroup") or ""
    return next((name for word, name in _CONTAINERS.items() if word in groups), None)


def is_wsl(machine: Machine) -> bool:
    """Whether this Linux runs inside Windows."""
    return "microsoft" in (machine.read("proc/sys/kernel/osrelease") or "").lower()


def judge_system(system: str, libc: str | None, *, wide: bool) -> Iterator[Finding]:
    """Whether ranks can be started, and whether the wheels load, on a system.

    Args:
        system: as `sys.platform`.
        libc: name and release of the C library, where it is known.
        wide: addresses have 64 bits.
    """
    if system != "linux":
        named = {"darwin": "macOS", "win32": "Windows"}.get(system, system)
        yield Finding(
            "error" if system == "win32" else "warning",
            "not-linux",
            f"{named}: training runs on Linux",
            "planning, checking and reports work; training "
            + ("does not start" if system == "win32" else "is not tested here, and DeepSpeed's ops may not build"),
            "use WSL 2, a container or a Linux machine; plan here with --cluster",
        )
    if not wide:
        effect = "there are no wheels of torch for it"
        yield Finding("error", "32-bit", "this Python has 32 bits, needs 64", effect, "install a Python of 64 bits")
    if libc == "musl":
        yield Finding(
            "error",
            "no-glibc",
            "the C library is musl, as Alpine's; needs glibc",
            "there are no wheels of torch for it",
            "use an image on Debian, Ubuntu or Red Hat, as python:3.11-slim",
        )
    elif libc is not None and libc.startswith("glibc "):
        numbers = tuple(int(part) for part in libc.split()[1].split(".")[:2] if part.isdecimal())
        if len(numbers) == 2 and numbers < OLDEST_GLIBC:
            needed = ".".join(map(str, OLDEST_GLIBC))
            yield Finding(
                "error",
                "old-glibc",
                f"{libc}: torch's wheels need {needed}",
                "pip finds no wheel of torch, or importing it ends with `GLIBC_... not found`",
                "use a newer system, or a container on it",
            )


def judge_python(facts: Mapping[str, object], machine: Machine) -> Iterator[Finding]:
    """What of the interpreter itself is in the way."""
    if facts["implementation"] != "CPython":
        told = f"{facts['implementation']}: torch is made for CPython"
        yield Finding(
            "error", "not-cpython", told, "torch cannot be installed", "use CPython, from python.org or conda"
        )
    with_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not with_lock:
        told = "this Python runs without its global lock (a free-threaded build)"
        effect = "compiled libraries crash, or switch it on again"
        yield Finding("warning", "free-threaded", told, effect, "use the ordinary build of the same release")
    if importlib.util.find_spec("_ctypes") is None or importlib.util.find_spec("_lzma") is None:
        told = "this Python was built without ctypes or lzma"
        effect = "importing torch or datasets fails"
        remedy = (
            "install libffi and liblzma with their headers (Debian: `apt install libffi-dev liblzma-dev`), build again"
        )
        yield Finding("error", "incomplete-python", told, effect, remedy)
    encoding = str(facts["encoding"]).lower().replace("-", "").replace("_", "")
    if encoding not in ("utf8", "cp65001"):
        yield Finding(
            "warning",
            "not-utf8",
            f"text files are read as {facts['encoding']}, needs UTF-8",
            "libraries that name no encoding misread or refuse tokenizers and samples",
            command="export PYTHONUTF8=1",
        )
    if facts["wsl"]:
        told = "WSL: Linux inside Windows"
        effect = "GPUs work; between GPUs NCCL has no direct copies, and files on Windows' own disks are slow"
        yield Finding("note", "wsl", told, effect, "keep environment, models and runs in the home folder")
    if machine.set("CONDA_PREFIX") and not sys.prefix.startswith(machine.set("CONDA_PREFIX")):
        told = "a conda environment is active, and this Python is another one's"
        effect = "its libraries and compiler are found first by what this Python starts"
        yield Finding("note", "two-environments", told, effect, command="conda deactivate")


def _environment_kind(machine: Machine) -> str:
    if sys.prefix != sys.base_prefix:
        return "venv"
    return "conda" if machine.set("CONDA_PREFIX") else "system"
