"""Imports the training half, one library after the other, and asks torch and DeepSpeed what they see.

`python -m toolkit.doctor.tried.libraries FILE NAME...`: FILE is for the answers, NAMEs are imported in this order.
"""

import importlib
import importlib.metadata
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.doctor.tried.teller import Teller, words_of
from toolkit.errors import BROKEN_LIBRARY

_CHECKED = ("accelerate", "datasets", "deepspeed", "peft", "torch", "torchaudio", "torchvision", "transformers")
"""Whose requirements are compared with what is installed."""


def main(arguments: Sequence[str]) -> None:
    """Tell of everything that can be told."""
    teller = Teller(Path(arguments[0]))
    teller.begin("requirements")
    try:
        teller.tell("requirements", unmet_requirements())
    except BROKEN_LIBRARY as error:
        teller.tell("requirements_error", words_of(error))
    modules: dict[str, Any] = {}
    for name in arguments[1:]:
        teller.begin(f"import {name}")
        began = time.monotonic()
        try:
            modules[name] = importlib.import_module(name)
        except BROKEN_LIBRARY as error:
            teller.tell(f"import {name}", {"error": words_of(error)})
            continue
        release = getattr(modules[name], "__version__", None)
        teller.tell(f"import {name}", {"seconds": round(time.monotonic() - began, 3), "release": release})
        for topic, ask in _QUESTIONS.get(name, ()):
            teller.begin(topic)
            try:
                teller.tell(topic, ask(modules[name]))
            except BROKEN_LIBRARY as error:
                teller.tell(topic, {"error": words_of(error)})
    teller.tell("standard_modules", sorted(sys.stdlib_module_names & sys.modules.keys()))
    teller.end()


def unmet_requirements() -> list[dict[str, str]]:
    """Requirements of the installed libraries that what is installed does not meet, extras left out."""
    requirements = importlib.import_module("packaging.requirements")
    unmet = []
    for name in _CHECKED:
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in lines:
            wanted = requirements.Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                release = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                release = ""
            if not release or not wanted.specifier.contains(release, prereleases=True):
                unmet.append({"library": name, "needs": str(wanted).partition(";")[0].strip(), "installed": release})
    return unmet


def _torch_facts(torch: Any) -> dict[str, Any]:
    """What torch was built for, and what it sees; nothing is computed on a GPU."""
    distributed = torch.distributed
    facts: dict[str, Any] = {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "architectures": torch.cuda.get_arch_list(),
        "distributed": distributed.is_available(),
        "gloo": distributed.is_available() and distributed.is_gloo_available(),
        "nccl": distributed.is_available() and distributed.is_nccl_available(),
        "threads": torch.get_num_threads(),
        "mps": bool(torch.backends.mps.is_available()),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts["gpus_usable"] = bool(torch.cuda.is_available())
    facts["gpu_warning"] = " ".join(str(caught[0].message).split()) if caught else None
    if facts["nccl"] and torch.version.cuda:
        facts["nccl_release"] = ".".join(map(str, torch.cuda.nccl.version()))
    facts["devices"] = []
    if facts["gpus_usable"]:
        for number in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(number)
            told = {"name": one.name, "memory": one.total_memory, "capability": f"{one.major}.{one.minor}"}
            facts["devices"].append(told)
    else:
        facts["fp16"] = bool(getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", bool)())
    return facts


def _build_facts(torch: Any) -> dict[str, Any]:
    """Where torch builds, and with which CUDA."""
    extensions = importlib.import_module("torch.utils.cpp_extension")
    return {"cuda_home": extensions.CUDA_HOME, "root": extensions.get_default_build_root()}


def _op_facts(deepspeed: Any) -> dict[str, Any]:
    """Which of DeepSpeed's ops were compiled with it, and which could be compiled here."""
    accelerator = importlib.import_module("deepspeed.accelerator").get_accelerator()
    installed = importlib.import_module("deepspeed.git_version_info").installed_ops
    facts: dict[str, Any] = {"accelerator": accelerator._name, "ops": {}}
    for kind in ("ShareMemCommBuilder", "CPUAdamBuilder", "FusedAdamBuilder", "AsyncIOBuilder"):
        try:
            builder = accelerator.create_op_builder(kind)
            if builder is not None and builder.name != "deepspeed_not_implemented":
                compatible = bool(builder.is_compatible(verbose=False))
                facts["ops"][kind] = {
                    "name": builder.name,
                    "installed": bool(installed.get(builder.name)),
                    "compatible": compatible,
                    "error": None if compatible else builder.error_log,
                }
        except BROKEN_LIBRARY as error:
            facts["ops"][kind] = {"error": words_of(error), "compatible": False}
    return facts


_QUESTIONS = {
    "torch": (("torch", _torch_facts), ("builds", _build_facts)),
    "deepspeed": (("deepspeed", _op_facts),),
}

if __name__ == "__main__":
    main(sys.argv[1:])
