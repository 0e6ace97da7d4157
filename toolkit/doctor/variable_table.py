"""Variables and values that are known to break or slow down runs: one entry each."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from toolkit.check.finding import Severity
from toolkit.doctor.finding import Finding
from toolkit.doctor.machine import Machine


class Seen(NamedTuple):
    """What the entries look at."""

    machine: Machine
    num_gpus: int
    interfaces: frozenset[str]
    """Names of the network interfaces."""


_Rule = Callable[[Seen], Iterator[Finding]]
_Test = Callable[[str, Seen], bool]


def _on(value: str, seen: Seen) -> bool:
    return value.lower() in ("1", "on", "t", "true", "y", "yes")


def _with_gpus(value: str, seen: Seen) -> bool:
    return _on(value, seen) and seen.num_gpus > 0


def _several_gpus(value: str, seen: Seen) -> bool:
    return _on(value, seen) and seen.num_gpus > 1


def _with_infiniband(value: str, seen: Seen) -> bool:
    return _on(value, seen) and any(seen.machine.root.glob("sys/class/infiniband/*"))


def _talks(value: str, seen: Seen) -> bool:
    return value.upper() in ("INFO", "TRACE")


def _is_set(value: str, seen: Seen) -> bool:
    return True


def _no_count(value: str, seen: Seen) -> bool:
    return not value.replace(",", "").isdecimal() or int(value.split(",")[0]) == 0


def _raises_warnings(value: str, seen: Seen) -> bool:
    return value.startswith("error")


def _no_interface(value: str, seen: Seen) -> bool:
    """None of the names is there; NCCL takes beginnings, `=` for whole names, `^` for those not to take."""
    if value.startswith("^"):
        return False
    names = [name.lstrip("=").split(":")[0] for name in value.split(",") if name]
    return not any(interface.startswith(name) for name in names for interface in seen.interfaces)


def _rule(name: str, test: _Test, severity: Severity, effect: str, remedy: str = "") -> _Rule:
    def judge(seen: Seen) -> Iterator[Finding]:
        value = seen.machine.set(name)
        if value and test(value, seen):
            yield Finding(severity, "variable", seen.machine.shown(name), effect, remedy, f"unset {name}")

    return judge


TABLE: tuple[_Rule, ...] = (
    _rule(
        "ACCELERATE_USE_CPU",
        _on,
        "warning",
        "accelerate drops DeepSpeed without a word in scripts that it does not launch: every rank trains alone",
    ),
    _rule(
        "ACCELERATE_USE_FSDP", _on, "warning", "accelerate wraps the model in FSDP where a script asks for DeepSpeed"
    ),
    _rule(
        "CUDA_LAUNCH_BLOCKING", _with_gpus, "warning", "every kernel waits for the one before: steps take twice as long"
    ),
    _rule(
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        _with_gpus,
        "warning",
        "every tensor is fetched from the driver: several times slower",
    ),
    _rule("NCCL_P2P_DISABLE", _several_gpus, "warning", "GPUs exchange through host memory, NVLinks are not used"),
    _rule("NCCL_SHM_DISABLE", _several_gpus, "warning", "GPUs without P2P exchange over the network card"),
    _rule("NCCL_IB_DISABLE", _with_infiniband, "warning", "nodes exchange over TCP, InfiniBand is not used"),
    _rule(
        "NCCL_BLOCKING_WAIT", _on, "note", "the old name of TORCH_NCCL_BLOCKING_WAIT; the CPU waits for each collective"
    ),
    _rule("TORCH_NCCL_BLOCKING_WAIT", _on, "note", "the CPU waits for each collective"),
    _rule("NCCL_DEBUG", _talks, "note", "every rank prints what NCCL does"),
    _rule("NCCL_SOCKET_IFNAME", _no_interface, "error", "NCCL finds no interface of that name, ranks end at start"),
    _rule("GLOO_SOCKET_IFNAME", _no_interface, "error", "gloo finds no interface of that name, ranks end at start"),
    _rule(
        "NVIDIA_TF32_OVERRIDE",
        _is_set,
        "note",
        "decides over TF32 in all libraries: fp32 numbers differ from those of others",
    ),
    _rule(
        "DS_SKIP_CUDA_CHECK", _on, "note", "DeepSpeed compiles with any CUDA toolkit; ops of another release may crash"
    ),
    _rule(
        "OMP_NUM_THREADS",
        _no_count,
        "warning",
        "no number of threads: libraries take one, or all processors for each rank",
    ),
    _rule(
        "PYTHONOPTIMIZE",
        _is_set,
        "warning",
        "assertions are left out, with which DeepSpeed and Megatron refuse bad settings",
    ),
    _rule("PYTHONWARNINGS", _raises_warnings, "warning", "a warning of any library ends the run"),
    _rule(
        "PYTHONHOME", _is_set, "warning", "Python takes its standard library from there, also that of other releases"
    ),
    _rule("PYTHONPATH", _is_set, "note", "what lies there is found before what is installed"),
    _rule("LD_PRELOAD", _is_set, "note", "this library is loaded into every rank, before torch"),
    _rule("PYTHONNOUSERSITE", _is_set, "note", "what `pip install --user` has installed is not seen"),
)
