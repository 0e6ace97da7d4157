"""What the shell lets its programs have."""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine
from toolkit.units import GiB, human_bytes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_NAMES = {"nofile": "NOFILE", "memlock": "MEMLOCK", "nproc": "NPROC", "as": "AS", "fsize": "FSIZE", "cpu": "CPU",
          "stack": "STACK"}  # fmt: skip
_LEAST_FILES = 1024
_LEAST_PROCESSES = 2048
_WANTED = 65536
"""Of both."""
_LEAST_FILE_BYTES = 20 * GiB

Limits = Mapping[str, tuple[int | None, int | None]]
"""Name -> what holds now, and what it may be raised to; None: no limit."""


def read_limits() -> dict[str, tuple[int | None, int | None]]:
    """Those of this process, which the ranks inherit."""
    found: dict[str, tuple[int | None, int | None]] = {}
    for name, system_name in _NAMES.items() if resource is not None else ():
        number = getattr(resource, f"RLIMIT_{system_name}", None)
        if number is not None:
            soft, hard = resource.getrlimit(number)
            found[name] = (
                None if soft == resource.RLIM_INFINITY else soft,
                None if hard == resource.RLIM_INFINITY else hard,
            )
    return found


def examine_limits(machine: Machine, *, gpus: bool) -> Section:
    """The probe; `gpus`: this machine has some."""
    found = read_limits()
    infiniband = any(machine.root.glob("sys/class/infiniband/*"))
    facts: dict[str, Any] = {name: {"now": soft, "most": hard} for name, (soft, hard) in found.items()}
    return Section("limits", facts, tuple(judge_limits(found, gpus=gpus, infiniband=infiniband)))


def judge_limits(limits: Limits, *, gpus: bool, infiniband: bool) -> Iterator[Finding]:
    """Limits that end runs."""

    def below(name: str, least: int) -> int | None:
        """The limit where it is less."""
        soft, _ = limits.get(name, (None, None))
        return soft if soft is not None and soft < least else None

    if (files := below("nofile", _LEAST_FILES)) is not None:
        told = f"a process may have {files} open files; {_LEAST_FILES} is usual, loaders and checkpoints want more"
        yield Finding("warning", "open-files", told, "runs end with `Too many open files`",
                      *_raise("-n", "nofile", limits["nofile"][1]))  # fmt: skip
    if (processes := below("nproc", _LEAST_PROCESSES)) is not None:
        told = f"this user may have {processes} processes and threads"
        effect = "ranks end with `can't start new thread` or `Resource temporarily unavailable`"
        yield Finding("warning", "processes", told, effect, *_raise("-u", "nproc", limits["nproc"][1]))
    locked, _ = limits.get("memlock", (None, None))
    if infiniband and locked is not None:
        yield Finding(
            "warning",
            "locked-memory",
            f"{human_bytes(locked)} of memory may be locked; InfiniBand adapters need no limit",
            "NCCL and gloo over InfiniBand fail: `ibv_reg_mr failed`, `Cannot allocate memory`",
            "in a container: `docker run --ulimit memlock=-1`; with Slurm: LimitMEMLOCK=infinity of slurmd",
            "ulimit -l unlimited",
        )
    space, _ = limits.get("as", (None, None))
    if space is not None:
        told = f"a process may have {human_bytes(space)} of address space (ulimit -v)"
        effect = "CUDA reserves more than the GPU has" if gpus else "torch maps more than it uses"
        yield Finding("error" if gpus else "warning", "address-space", told, f"{effect}: ranks end at start",
                      command="ulimit -v unlimited")  # fmt: skip
    if (largest := below("fsize", _LEAST_FILE_BYTES)) is not None:
        told = f"a file may have {human_bytes(largest)} (ulimit -f)"
        yield Finding("error" if largest < GiB else "warning", "file-size", told, "checkpoints end with SIGXFSZ",
                      command="ulimit -f unlimited")  # fmt: skip
    seconds, _ = limits.get("cpu", (None, None))
    if seconds is not None:
        told = f"a process may compute for {seconds:,} s (ulimit -t), as on login nodes"
        yield Finding("warning", "cpu-time", told, "ranks end with SIGXCPU", "start runs as jobs of the cluster",
                      "ulimit -t unlimited")  # fmt: skip


def _raise(letter: str, name: str, most: int | None) -> tuple[str, str]:
    """What to do, and the command, where the hard limit allows one."""
    if most is None or most >= _WANTED:
        return "", f"ulimit {letter} {_WANTED}"
    raised = (
        f"the hard limit is {most}: raise it in /etc/security/limits.conf, or `docker run --ulimit {name}={_WANTED}`"
    )
    return raised, f"ulimit {letter} {most}"
