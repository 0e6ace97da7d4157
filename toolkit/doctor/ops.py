"""DeepSpeed's compiled ops: which are there, which build here, and what is remembered of those that were tried."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.check.finding import Severity
from toolkit.doctor.explained import explain
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.libraries import import_failure
from toolkit.doctor.machine import Machine
from toolkit.doctor.storage import builds_root
from toolkit.doctor.told import Told
from toolkit.versions import ops_folder_name


class Op(NamedTuple):
    """One that runs here use."""

    purpose: str
    places: tuple[str, ...]
    """cpu, cuda: what the ranks run on."""
    without: str
    """What happens where it does not build."""


OPS = {
    "ShareMemCommBuilder": Op("collectives of processors", ("cpu",), "no run starts on processors"),
    "FusedAdamBuilder": Op("AdamW on GPUs", ("cuda",), "torch's fused AdamW is taken, a little slower"),
    "CPUAdamBuilder": Op("AdamW on the host, for offload", ("cpu", "cuda"), "torch's AdamW is taken, slower there"),
    "AsyncIOBuilder": Op("offload to a disk", ("cpu", "cuda"), "no offload to a disk"),
}
FULL_IMPORTS = {
    "peft": "peft",
    "datasets": "datasets",
    "megatron-core": "megatron.core",
    "bitsandbytes": "bitsandbytes",
}
"""Package -> module that `--full` imports where it is installed."""


def builders_for(torch: Mapping[str, Any]) -> list[str]:
    """Those of the device that torch sees."""
    place = "cuda" if torch.get("devices") else "cpu"
    return [name for name, op in OPS.items() if place in op.places]


def folder_of_builds(machine: Machine, told: Told) -> Path | None:
    """Where a run keeps its compiled ops (engines/ds/ops.py); None where torch or DeepSpeed do not tell."""
    if machine.set("TORCH_EXTENSIONS_DIR"):
        return builds_root(machine)
    torch, deepspeed = (told.section(f"import {name}").get("release") for name in ("torch", "deepspeed"))
    root = told.section("builds").get("root")
    return Path(root) / ops_folder_name(torch=torch, deepspeed=deepspeed) if torch and deepspeed and root else None


class Memory:
    """What earlier tries found, in a file of the user's cache folder whose name is made of all that decides it.

    Args:
        machine: whose cache folder it is.
        circumstances: releases of the libraries, the compiler and the CUDA toolkit; another one, another file.
    """

    def __init__(self, machine: Machine, circumstances: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(circumstances, sort_keys=True, default=str).encode()).hexdigest()[:16]
        root = Path(machine.set("XDG_CACHE_HOME") or machine.home / ".cache").expanduser()
        self.path = root / "toolkit" / "doctor" / f"{digest}.json"

    def recall(self) -> dict[str, Any]:
        """Name -> seconds or error; empty where nothing was tried, or the file is broken."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}

    def keep(self, found: Mapping[str, Any]) -> None:
        """Remember these too; nothing where the folder cannot be written."""
        beside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({**self.recall(), **found}, indent=1), encoding="utf-8")
            beside.replace(self.path)
        except OSError:
            return


def examine_ops(
    machine: Machine, told: Told, tried: Mapping[str, Any], *, torch: Mapping[str, Any], libaio: bool
) -> Section:
    """The probe.

    Args:
        machine: whose folders these are.
        told: what DeepSpeed told of its ops.
        tried: name -> seconds or error, of this or an earlier `--full`.
        torch: what torch told.
        libaio: it is there; where it is not, that is told already.
    """
    known = told.section("deepspeed").get("ops", {})
    folder = folder_of_builds(machine, told)
    facts: dict[str, Any] = {"accelerator": told.section("deepspeed").get("accelerator"), "ops": {}, "imports": {}}
    findings: list[Finding] = []
    if not known:
        return Section("ops", facts)
    for builder in builders_for(torch):
        one = known.get(builder)
        if one is None:
            continue
        name = one.get("name", builder)
        built = folder is not None and (folder / name / f"{name}.so").is_file()
        facts["ops"][builder] = {
            "purpose": OPS[builder].purpose,
            "state": state_of(one, tried.get(builder, {}), built=built),
            "seconds": tried.get(builder, {}).get("seconds"),
        }
        if builder == "AsyncIOBuilder" and not libaio:
            continue
        findings += _judge_op(builder, facts["ops"][builder]["state"], one, tried.get(builder, {}))
    for module in FULL_IMPORTS.values():
        if module in tried:
            facts["imports"][module] = tried[module]
            if error := tried[module].get("error"):
                findings.append(import_failure(module, error, blocks=module in ("peft", "datasets")))
    return Section("ops", facts, tuple(findings))


def state_of(known: Mapping[str, Any], tried: Mapping[str, Any], *, built: bool) -> str:
    """One word for an op: installed, built, failed, incompatible or untried."""
    if known.get("installed"):
        return "installed"
    if built:
        return "built"
    if tried.get("error"):
        return "failed"
    return "untried" if known.get("compatible") else "incompatible"


def _judge_op(builder: str, state: str, known: Mapping[str, Any], tried: Mapping[str, Any]) -> Iterator[Finding]:
    """An op that does not build."""
    if state not in ("failed", "incompatible"):
        return
    op = OPS[builder]
    said = str(tried.get("error") or known.get("error") or "DeepSpeed gives no reason")
    explained = explain(f"{said} {'libaio' if builder == 'AsyncIOBuilder' and state == 'incompatible' else ''}")
    severity: Severity = (
        "error" if builder == "ShareMemCommBuilder" else "note" if builder == "AsyncIOBuilder" else "warning"
    )
    yield Finding(
        severity,
        "op-does-not-build",
        f"DeepSpeed's {op.purpose} ({known.get('name', builder)}) does not build here: {said[:400]}"
        + (f" ({explained.meaning})" if explained else ""),
        op.without,
        (explained.remedy if explained else "") or ("once mended:" if state == "failed" else ""),
        (explained.command if explained else "") or "toolkit doctor --full",
    )
