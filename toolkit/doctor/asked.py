"""The programs of one examination: started at once, waited for when their answer is needed."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.doctor.gpu_health import KERNEL_LOG
from toolkit.doctor.libraries import IMPORTED
from toolkit.doctor.machine import Machine
from toolkit.doctor.nvidia_smi import CAPABILITIES, QUERY
from toolkit.doctor.ops import FULL_IMPORTS, builders_for
from toolkit.doctor.programs import Program, Programs, ended
from toolkit.doctor.told import NOTHING, Told, read_told
from toolkit.doctor.toolchain import compiler_command, nvcc_command
from toolkit.doctor.topology import MATRIX, PEERS
from toolkit.doctor.tried.collectives import free_port
from toolkit.specs.machine import local_sockets

_QUICK_SECONDS = 10.0
_DRIVER_SECONDS = 30.0
"""nvidia-smi without a persistent driver wakes one GPU after the other."""
_IMPORT_SECONDS = 120.0
"""A cold environment on a network disk."""
_PAIR_SECONDS = 150.0
"""Importing torch, and two routes on which ranks may wait for each other."""
_NCCL_SECONDS = 180.0
_BUILD_SECONDS = 1800.0
_MOST_RANKS = 16
_QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": ""}


@dataclass(frozen=True)
class Asked:
    """What was started; `ask` makes it. A program that could not be started is None."""

    programs: Programs
    smi: Program | None
    capabilities: Program | None
    matrix: Program | None
    peers: Program | None
    kernel_log: Program | None
    compiler: Program | None
    nvcc: Program | None
    importing: Program | None
    pair: Program | None

    @cached_property
    def libraries(self) -> Told:
        """What the imports told."""
        return self._told("libraries", self.importing)

    @cached_property
    def torch(self) -> dict[str, Any]:
        """What torch told; empty where it cannot be imported."""
        return self.libraries.section("torch")

    @cached_property
    def gloo(self) -> Told | None:
        """What two ranks told; None where they were not started."""
        return None if self.pair is None else self._told("gloo", self.pair)

    def start_nccl(self) -> Callable[[], list[Told]]:
        """Start a rank on each GPU that torch sees; the result waits for them."""
        devices = self.torch.get("devices", []) if self.torch.get("nccl") else []
        # Parts of a GPU (MIG) cannot be joined.
        ranks = 0 if any("MIG" in one["name"] for one in devices) else min(len(devices), _MOST_RANKS)
        if not ranks or self.programs.folder is None:
            return list
        # As in a run: the loopback, unless the user has named an interface.
        sockets = {name: value for name, value in local_sockets().items() if name not in self.programs.environment}
        own = {**sockets, **_QUIET, "WORLD_SIZE": str(ranks), "MASTER_PORT": str(free_port())}
        started = [
            self.programs.start_python(
                "toolkit.doctor.tried.collectives",
                [str(self.programs.folder / f"nccl-{rank}"), "nccl"],
                seconds=_NCCL_SECONDS,
                environment={**own, "RANK": str(rank), "LOCAL_RANK": str(rank), "NCCL_DEBUG": "WARN"},
            )
            for rank in range(ranks)
        ]
        return lambda: [self._told(f"nccl-{rank}", program) for rank, program in enumerate(started)]

    def build(self, releases: Mapping[str, Any]) -> dict[str, Any]:
        """Import what `--full` imports and compile this device's ops: name -> seconds, or the error.

        Args:
            releases: the facts of that section.
        """
        if self.programs.folder is None:
            return {}
        modules = [name for package, name in FULL_IMPORTS.items() if releases.get(package, {}).get("installed")]
        names = [*modules, *builders_for(self.torch)]
        arguments = [str(self.programs.folder / "full"), *names]
        program = self.programs.start_python(
            "toolkit.doctor.tried.ops", arguments, seconds=_BUILD_SECONDS, environment=_QUIET
        )
        told = self._told("full", program)
        found = {name: told.section(name) for name in names if told.section(name)}
        if told.end is not None:
            # What it was at when it ended is to blame; before the first, what all of it needs.
            found[told.step or names[0]] = {"error": told.end, "ended": True}
        return found

    def _told(self, name: str, program: Program | None) -> Told:
        folder = self.programs.folder
        return NOTHING if folder is None or program is None else read_told(folder / name, ended(program))


def ask(programs: Programs, machine: Machine, installed: Mapping[str, str | None]) -> Asked:
    """Start everything that can be asked at once."""
    scratch = programs.folder or Path(os.devnull).parent
    importing = pair = None
    names = [name for name in IMPORTED if installed.get(name) is not None]
    if names:
        importing = programs.start_python(
            "toolkit.doctor.tried.libraries",
            [str(scratch / "libraries"), *names],
            seconds=_IMPORT_SECONDS,
            environment=_QUIET,
        )
    if "torch" in names:
        pair = programs.start_python(
            "toolkit.doctor.tried.collectives",
            [str(scratch / "gloo"), "gloo"],
            seconds=_PAIR_SECONDS,
            environment={**_QUIET, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
    nvcc = nvcc_command(machine)
    return Asked(
        programs=programs,
        smi=programs.start(QUERY, seconds=_DRIVER_SECONDS),
        capabilities=programs.start(CAPABILITIES, seconds=_DRIVER_SECONDS),
        matrix=programs.start(MATRIX, seconds=_DRIVER_SECONDS),
        peers=programs.start(PEERS, seconds=_DRIVER_SECONDS),
        kernel_log=programs.start(KERNEL_LOG, seconds=_QUICK_SECONDS) if machine.system == "linux" else None,
        compiler=programs.start(compiler_command(machine), seconds=_QUICK_SECONDS),
        nvcc=None if nvcc is None else programs.start(nvcc, seconds=_QUICK_SECONDS),
        importing=importing,
        pair=pair,
    )
