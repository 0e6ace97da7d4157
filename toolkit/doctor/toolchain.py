"""What DeepSpeed compiles its ops with: compiler, ninja, headers, libaio, and the CUDA toolkit."""

import ctypes.util
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.check.finding import Severity
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine
from toolkit.doctor.programs import Ended

OLDEST_GCC = (9, 0)
"""torch's headers are C++17 and newer."""
# Newest g++ that each CUDA toolkit takes, from its include/crt/host_config.h.
_NEWEST_GCC = {"11.8": 11, "12.0": 12, "12.1": 12, "12.2": 12, "12.3": 12, "12.4": 13, "12.5": 13, "12.6": 13,
               "12.8": 14, "12.9": 14, "13.0": 15}  # fmt: skip


@dataclass(frozen=True)
class Toolchain:
    """What was found."""

    compiler: str
    """As CXX names it, or g++."""
    compiler_release: str | None
    """None where there is none."""
    ninja: bool
    headers: bool
    """Python.h."""
    libaio: bool
    libaio_header: bool
    nvcc_release: str | None


def cuda_home(machine: Machine) -> Path | None:
    """The CUDA toolkit's folder, where torch looks for it (torch/utils/cpp_extension.py)."""
    if given := machine.set("CUDA_HOME") or machine.set("CUDA_PATH"):
        return Path(given)
    if nvcc := shutil.which("nvcc", path=machine.environment.get("PATH", "")):
        return Path(nvcc).parents[1]
    usual = machine.root / "usr/local/cuda"
    return usual if usual.exists() else None


def compiler_command(machine: Machine) -> list[str]:
    """What prints the compiler's release."""
    return [machine.set("CXX") or "g++", "--version"]


def nvcc_command(machine: Machine) -> list[str] | None:
    """What prints the CUDA toolkit's release; None where there is none."""
    home = cuda_home(machine)
    return None if home is None else [str(home / "bin" / "nvcc"), "--version"]


def parse_compiler(text: str) -> str | None:
    """Release of g++ or clang++ from the first line of its --version."""
    first = text.splitlines()[0] if text.strip() else ""
    # g++ (Debian 12.2.0-14) 12.2.0; the packager's own number stands in brackets.
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)", re.sub(r"\([^)]*\)", "", first))
    return found[1] if found else None


def parse_nvcc(text: str) -> str | None:
    """Release of the CUDA toolkit, as 12.8."""
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else None


def examine_toolchain(machine: Machine, *, compiler: Ended, nvcc: Ended, torch: Mapping[str, Any]) -> Section:
    """The probe.

    Args:
        machine: where to look.
        compiler: how the compiler ended that was asked for its release.
        nvcc: the same of nvcc.
        torch: what torch told.
    """
    found = Toolchain(
        compiler=compiler_command(machine)[0],
        compiler_release=parse_compiler(compiler.out) if compiler.status == 0 else None,
        ninja=_has_ninja(machine),
        headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        libaio=ctypes.util.find_library("aio") is not None,
        libaio_header=any((machine.root / place / "libaio.h").is_file() for place in _header_places(machine)),
        nvcc_release=parse_nvcc(nvcc.out) if nvcc.status == 0 else None,
    )
    facts = {
        "compiler": f"{found.compiler} {found.compiler_release}" if found.compiler_release else None,
        "ninja": found.ninja,
        "python_headers": found.headers,
        "libaio": found.libaio and found.libaio_header,
        "cuda_toolkit": found.nvcc_release,
        "torch_cuda": torch.get("cuda"),
    }
    findings = [*judge_compiler(found, torch, system=machine.system), *judge_cuda(found, torch, machine)]
    return Section("toolchain", facts, tuple(findings))


def judge_compiler(found: Toolchain, torch: Mapping[str, Any], *, system: str) -> Iterator[Finding]:
    """What is missing for ops that are compiled on first use."""
    if not torch or system == "win32":
        return  # nothing is compiled without the training half
    on_cpu = not torch.get("devices")
    effect = "no run starts on processors: DeepSpeed compiles its collectives for them on first use"
    if not on_cpu:
        effect = "FusedAdam, CPUAdam and offload to a disk are not compiled; torch's AdamW is taken, slower on the host"
    severity: Severity = "error" if on_cpu else "warning"
    numbers = tuple(int(part) for part in (found.compiler_release or "").split(".")[:2] if part.isdecimal())
    if found.compiler_release is None:
        told = f"no compiler: {found.compiler} is not found, or does not run"
        yield Finding(severity, "no-compiler", told, effect, command="sudo apt install g++")
    elif "clang" not in found.compiler and numbers < OLDEST_GCC:
        told = f"{found.compiler} {found.compiler_release}: torch's headers need {OLDEST_GCC[0]} or newer"
        yield Finding(
            severity, "old-compiler", told, effect, "install a newer g++ and set CXX to it", "export CXX=g++-12"
        )
    if not found.ninja:
        yield Finding(
            severity, "no-ninja", "ninja is not found", effect, command="pip install -c constraints.txt ninja"
        )
    if not found.headers:
        release = f"{sys.version_info.major}.{sys.version_info.minor}"
        told = f"Python.h of Python {release} is not found"
        yield Finding(severity, "no-python-headers", told, effect, command=f"sudo apt install python{release}-dev")
    if not (found.libaio and found.libaio_header):
        what = "libaio is not found" if not found.libaio else "libaio.h is not found"
        told = f"{what}: DeepSpeed's async_io does not build"
        effect = "no offload to a disk; everything else works"
        yield Finding("note", "no-libaio", told, effect, command="sudo apt install libaio-dev")


def judge_cuda(found: Toolchain, torch: Mapping[str, Any], machine: Machine) -> Iterator[Finding]:
    """The CUDA toolkit against torch's CUDA, where there are GPUs to compile for."""
    built = torch.get("cuda")
    if not torch.get("devices") or not built:
        return
    wanted = ".".join(str(built).split(".")[:2])
    effect = "DeepSpeed's FusedAdam is not compiled; torch's fused AdamW is taken, a little slower"
    if found.nvcc_release is None:
        told = f"no CUDA toolkit: nvcc is not found, torch has CUDA {wanted}"
        remedy = f"nothing, it trains; or install the CUDA {wanted} toolkit and set CUDA_HOME"
        yield Finding("note", "no-nvcc", told, effect, remedy)
        return
    if not nvcc_suits(found.nvcc_release, wanted) and machine.set("DS_SKIP_CUDA_CHECK") != "1":
        told = f"nvcc is of CUDA {found.nvcc_release}, torch of CUDA {wanted}: DeepSpeed refuses to compile"
        remedy = f"set CUDA_HOME to a CUDA {wanted} toolkit, or install a torch for CUDA {found.nvcc_release}"
        yield Finding("warning", "cuda-mismatch", told, effect, remedy, f"export CUDA_HOME=/usr/local/cuda-{wanted}")
    newest = _NEWEST_GCC.get(found.nvcc_release)
    major = int((found.compiler_release or "0").split(".")[0])
    if newest is not None and major > newest and "clang" not in found.compiler:
        told = f"{found.compiler} {found.compiler_release}: nvcc of CUDA {found.nvcc_release} takes {newest} and older"
        remedy = f"install g++-{newest} and set CXX to it"
        yield Finding("warning", "compiler-too-new", told, effect, remedy, f"export CXX=g++-{newest} CC=gcc-{newest}")


def nvcc_suits(nvcc: str, torch_cuda: str) -> bool:
    """Whether DeepSpeed compiles: the same release, or both of 11 or of 12 (op_builder/builder.py)."""
    return nvcc == torch_cuda or (nvcc.split(".")[0] == torch_cuda.split(".")[0] and nvcc.split(".")[0] in ("11", "12"))


def _has_ninja(machine: Machine) -> bool:
    # A run puts the folder of its Python first.
    beside = f"{Path(sys.executable).parent}{os.pathsep}{machine.environment.get('PATH', '')}"
    return shutil.which("ninja", path=beside) is not None or importlib.util.find_spec("ninja") is not None


def _header_places(machine: Machine) -> list[str]:
    flags = re.findall(r"-I\s*(\S+)", machine.set("CFLAGS"))
    paths = [path for name in ("CPATH", "CPLUS_INCLUDE_PATH") for path in machine.set(name).split(os.pathsep) if path]
    return ["usr/include", "usr/local/include", *flags, *paths, f"{sys.prefix}/include"]
