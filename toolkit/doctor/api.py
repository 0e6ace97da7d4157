"""One examination: programs are started, files are read meanwhile, and everything is judged."""

import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.doctor.asked import Asked, ask
from toolkit.doctor.capabilities import capabilities
from toolkit.doctor.collectives import examine_collectives
from toolkit.doctor.finding import Capability, Finding, Section, in_order
from toolkit.doctor.gpu_health import judge_xids, parse_xids
from toolkit.doctor.gpus import examine_gpus
from toolkit.doctor.interpreter import examine_interpreter
from toolkit.doctor.libraries import examine_libraries
from toolkit.doctor.limits import examine_limits
from toolkit.doctor.machine import Machine
from toolkit.doctor.memory import examine_memory
from toolkit.doctor.network import examine_network
from toolkit.doctor.nvidia_smi import parse_capabilities, parse_driver
from toolkit.doctor.ops import Memory, examine_ops
from toolkit.doctor.programs import Programs, ended
from toolkit.doctor.releases import examine_releases, installed_releases, read_table
from toolkit.doctor.shadows import examine_shadows
from toolkit.doctor.storage import examine_storage
from toolkit.doctor.toolchain import examine_toolchain
from toolkit.doctor.topology import Topology, judge_topology, parse_peers, parse_topology, topology_words
from toolkit.doctor.tried.teller import words_of
from toolkit.doctor.variables import examine_variables
from toolkit.errors import BROKEN_LIBRARY, MachineError, ToolkitError
from toolkit.specs.cluster import ClusterSpec


@dataclass(frozen=True)
class Examination:
    """All that was found."""

    sections: tuple[Section, ...]
    capabilities: tuple[Capability, ...]
    seconds: float
    """That it took."""

    @property
    def findings(self) -> list[Finding]:
        """Of all sections, errors first."""
        return in_order(one for section in self.sections for one in section.findings)

    @property
    def blocks_training(self) -> bool:
        """Whether there is an error."""
        return any(one.severity == "error" for one in self.findings)


def examine(machine: Machine, *, full: bool = False, noted: Callable[[str], object] = str) -> Examination:
    """Look at this machine.

    Args:
        machine: where to look.
        full: import every library and compile DeepSpeed's ops; minutes, once.
        noted: called with a sentence before something takes long.
    """
    began = time.monotonic()
    installed = installed_releases(read_table())
    with Programs(machine.environment) as programs:
        asked = ask(programs, machine, installed)
        # Read while the libraries are imported.
        sections = [
            _guarded("system", lambda: examine_interpreter(machine)),
            _guarded("releases", lambda: examine_releases(machine.system, sys.version_info[:2])),
            _guarded("memory", lambda: examine_memory(machine)),
            _guarded("storage", lambda: examine_storage(machine)),
            _guarded("network", lambda: examine_network(machine)),
            _guarded("planner", _examine_planner),
        ]
        sections += _judged(asked, machine, installed)
        sections += _tried(asked, machine, sections, full=full, noted=noted)
    by_name = {section.name: section for section in sections}
    findings = in_order(one for section in sections for one in section.findings)
    able = _able(by_name, findings)
    return Examination(tuple(sections), able, time.monotonic() - began)


def _judged(asked: Asked, machine: Machine, installed: dict[str, str | None]) -> list[Section]:
    """What the started programs have said."""
    told = asked.libraries
    smi, capability_lines = ended(asked.smi), parse_capabilities(ended(asked.capabilities).out)
    driver = parse_driver(smi.out) if smi.status == 0 else None
    names = [gpu.name for gpu in driver.gpus] if driver else []
    loaded = told.answers.get("standard_modules")
    return [
        _guarded("imports", lambda: examine_libraries(told, installed)),
        _guarded("gpus", lambda: examine_gpus(machine, smi, capabilities=capability_lines, told=told)),
        _guarded("topology", lambda: _examine_topology(asked, names)),
        _guarded("kernel log", lambda: _examine_kernel_log(asked, bool(names))),
        _guarded("toolchain", lambda: _examine_toolchain(asked, machine)),
        _guarded("limits", lambda: examine_limits(machine, gpus=bool(names))),
        _guarded("environment", lambda: examine_variables(machine, num_gpus=len(names))),
        _guarded("shadows", lambda: examine_shadows(machine, loaded)),
    ]


def _tried(
    asked: Asked, machine: Machine, sections: Sequence[Section], *, full: bool, noted: Callable[[str], object]
) -> list[Section]:
    """What takes the training half."""
    told, torch = asked.libraries, asked.torch
    facts = {section.name: section.facts for section in sections}
    memory = Memory(machine, {"prefix": sys.prefix, **{name: facts[name] for name in ("releases", "toolchain")}})
    nccl = asked.start_nccl()
    collectives = _guarded("collectives", lambda: examine_collectives(asked.gloo, nccl(), torch))
    tried: dict[str, Any] = {}
    if full and told.section("import deepspeed").get("release"):
        noted("importing every library and compiling DeepSpeed's ops; a minute or more each, once")
        tried = asked.build(facts["releases"])
        # Of a try that was ended nobody knows what it would have come to.
        memory.keep({name: one for name, one in tried.items() if not one.get("ended")})
    return [
        collectives,
        _guarded("ops", lambda: _examine_ops(asked, machine, memory.recall() | tried, facts["toolchain"])),
    ]


def _guarded(name: str, probe: Callable[[], Section]) -> Section:
    """A probe that fails on a system it does not know is a finding, and the others go on."""
    try:
        return probe()
    except (*BROKEN_LIBRARY, importlib.metadata.PackageNotFoundError, ToolkitError) as error:
        told = f"what is known of {name} cannot be read: {words_of(error)}"
        effect = "problems there are not told"
        finding = Finding("warning", "probe-failed", told, effect, "report it:", "toolkit doctor --report report.md")
        return Section(name, {}, (finding,))


def _able(sections: dict[str, Section], findings: list[Finding]) -> tuple[Capability, ...]:
    try:
        return tuple(capabilities(sections, findings))
    except BROKEN_LIBRARY as error:
        return (Capability("anything", "untried", f"it cannot be said: {words_of(error)}"),)


def _examine_planner() -> Section:
    """What `toolkit plan` without --cluster plans for."""
    try:
        return Section("planner", {"cluster": ClusterSpec.detect().name})
    except MachineError as error:
        effect = "`toolkit plan` and `toolkit demo` ask for --cluster"
        finding = Finding(
            "note", "unknown-cluster", str(error), effect, "give it: --cluster 8xA100-80GB, or a YAML file"
        )
        return Section("planner", {"cluster": None}, (finding,))


def _examine_toolchain(asked: Asked, machine: Machine) -> Section:
    compiler, nvcc = ended(asked.compiler), ended(asked.nvcc)
    return examine_toolchain(machine, compiler=compiler, nvcc=nvcc, torch=asked.torch)


def _examine_ops(asked: Asked, machine: Machine, tried: dict[str, Any], toolchain: dict[str, Any]) -> Section:
    libaio = bool(toolchain.get("libaio"))
    return examine_ops(machine, asked.libraries, tried, torch=asked.torch, libaio=libaio)


def _examine_topology(asked: Asked, names: list[str]) -> Section:
    matrix = ended(asked.matrix)
    found = (parse_topology(matrix.out) if matrix.status == 0 else None) or Topology({}, {}, {})
    peers = parse_peers(ended(asked.peers).out)
    facts: dict[str, Any] = {
        "links": {f"{first}-{second}": link for (first, second), link in found.links.items()},
        "numa": {str(gpu): node for gpu, node in found.numa.items()},
        "adapters": found.adapters,
        "peers": sum(peers.values()) if peers else None,
        "words": topology_words(found, len(names)),
    }
    return Section("topology", facts, tuple(judge_topology(found, names, peers=peers)))


def _examine_kernel_log(asked: Asked, gpus: bool) -> Section:
    log = ended(asked.kernel_log) if gpus else ended(None)
    xids = parse_xids(log.out)
    facts = {"readable": log.status == 0, "xids": {str(number): times for number, times in xids.items()}}
    return Section("kernel log", facts, tuple(judge_xids(xids)))
