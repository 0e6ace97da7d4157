"""The machine in a few lines, from the facts of the sections."""

import platform
from collections import Counter
from typing import Any

import toolkit
from toolkit.doctor.api import Examination
from toolkit.units import human_bytes

_NAMED = ("torch", "deepspeed", "transformers", "accelerate", "peft", "megatron-core")


def summary_lines(found: Examination) -> list[str]:
    """System, libraries, GPUs, processors and disk: a line each."""
    facts = {section.name: section.facts for section in found.sections}
    told = {
        "system": _system(facts.get("system", {})),
        "libraries": _libraries(facts.get("releases", {})),
        "GPUs": _gpus(facts.get("gpus", {})),
        "links": "; ".join(facts.get("topology", {}).get("words", [])),
        "processors": _processors(facts.get("memory", {})),
        "disk": _disk(facts.get("storage", {})),
        "plans for": facts.get("planner", {}).get("cluster") or "nothing without --cluster",
    }
    return [f"{name:<11}{words}" for name, words in told.items() if words]


def _system(facts: dict[str, Any]) -> str:
    where = ", ".join(str(facts[name]) for name in ("container", "scheduler") if facts.get(name))
    release = f"toolkit {toolkit.__version__}, Python {platform.python_version()} ({facts.get('environment', '?')})"
    machine = f"{facts.get('system', '?')} {facts.get('architecture', '')}".strip()
    return f"{release}, {machine}{f', in {where}' if where else ''}"


def _libraries(facts: dict[str, Any]) -> str:
    there = [f"{name} {facts[name]['installed']}" for name in _NAMED if facts.get(name, {}).get("installed")]
    if not there:
        return "the training half is not installed"
    states = {facts[name]["state"] for name in _NAMED if facts.get(name, {}).get("installed")}
    return ", ".join(there) + (" (tested together)" if states == {"tested"} else "")


def _gpus(gpus: dict[str, Any]) -> str:
    found = gpus.get("gpus") or gpus.get("torch_devices") or []
    if not found:
        return "none"
    kinds = Counter((one["name"], one["memory"]) for one in found)
    named = [
        f"{number} x {name}" + (f" ({human_bytes(memory)})" if memory else "")
        for (name, memory), number in kinds.items()
    ]
    driver = f"driver {gpus['driver']} (CUDA {gpus['driver_cuda']})" if gpus.get("driver") else ""
    return "; ".join([", ".join(named), *filter(None, [driver])])


def _processors(facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    share = facts.get("processor_limit")
    limits = [facts[name] for name in ("memory", "memory_limit") if facts.get(name)]
    words = [f"{facts['processors']}" + (f" (limited to {share:g})" if share and share < facts["processors"] else "")]
    words += [f"{human_bytes(min(limits))} of memory"] if limits else []
    words += [f"{human_bytes(facts['shm_free'])} free in /dev/shm"] if facts.get("shm_free") is not None else []
    return ", ".join([*words, *facts.get("cpu_features", [])])


def _disk(facts: dict[str, Any]) -> str:
    places = facts.get("places", {})
    free = {name: one["free"] for name, one in places.items() if one.get("free") is not None}
    if "current folder" not in free:
        return ""
    size = human_bytes(facts.get("cache_bytes", 0)) + ("" if facts.get("cache_counted_whole", True) else " or more")
    words = f"{human_bytes(free['current folder'])} free here; Hugging Face cache {size}"
    return f"{words}, {human_bytes(free.get('Hugging Face cache', 0))} free"
