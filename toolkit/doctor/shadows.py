"""Files and folders that are found before the library of their name."""

import os
import sys
from collections.abc import Collection, Iterator
from importlib.machinery import FrozenImporter
from pathlib import Path

import toolkit
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine

_LIBRARIES = frozenset({
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "evaluate", "filelock", "huggingface_hub", "jinja2",
    "lm_eval", "matplotlib", "megatron", "mlflow", "ninja", "numpy", "packaging", "pandas", "peft", "psutil",
    "pyarrow", "pydantic", "requests", "safetensors", "scipy", "tensorboard", "tokenizers", "toolkit", "torch",
    "torchvision", "tqdm", "transformers", "triton", "trl", "typer", "wandb", "yaml",
})  # fmt: skip
_OWN = Path(toolkit.__file__).resolve().parent


def examine_shadows(machine: Machine, loaded: Collection[str] | None) -> Section:
    """The probe: the current folder, which `accelerate launch -m` puts first, and those of PYTHONPATH.

    Args:
        machine: where to look.
        loaded: modules of the standard library that the training half imports; None where that is not known.
    """
    listed = [entry for entry in machine.environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    findings: list[Finding] = []
    for folder in dict.fromkeys([machine.folder, *(Path(entry).absolute() for entry in listed)]):
        if folder.name not in ("site-packages", "dist-packages"):
            findings += judge_folder(folder, loaded, here=folder == machine.folder)
    names = [one.message.split()[0] for one in findings]
    return Section("shadows", {"hiding": names}, tuple(findings))


def judge_folder(folder: Path, loaded: Collection[str] | None, *, here: bool) -> Iterator[Finding]:
    """What in a folder hides a library; `here`: it is the current one."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        name = path.name.removesuffix(".py")
        module = (path.suffix == ".py" and path.is_file()) or (path / "__init__.py").is_file()
        where = "in the current folder" if here else "in a folder of PYTHONPATH"
        if not (name in _LIBRARIES or _hides_standard(name, loaded)) or path.resolve() == _OWN:
            continue
        if module and name == "toolkit":
            told = f"{path.name} {where} is another copy of this toolkit than the one that runs"
            effect = "ranks that are started here import that one, the command is this one's"
            yield Finding(
                "warning", "shadow", told, effect, "install it, or start from another folder", "pip install -e ."
            )
        elif module:
            yield _hidden(
                path, where, standard=name not in _LIBRARIES, sure=here if name in _LIBRARIES else bool(loaded)
            )
        elif name in ("datasets", "deepspeed", "megatron", "peft", "torch", "transformers") and path.is_dir():
            yield Finding(
                "note",
                "shadow-folder",
                f"{path.name}/ {where} has the name of a library",
                f"no harm while {name} is installed; without it `import {name}` gives an empty module",
                "rename it, or start from another folder",
            )


def _hidden(path: Path, where: str, *, standard: bool, sure: bool) -> Finding:
    """The finding for a module that is imported in place of another.

    Args:
        path: the module.
        where: in words.
        standard: it hides a module of the standard library.
        sure: training does not start; else the user may have wanted it, or nobody imports it.
    """
    name = path.name.removesuffix(".py")
    kind = "Python's own module" if standard else "the library"
    return Finding(
        "error" if sure else "warning",
        "shadow",
        f"{path.name} {where} is found before {kind} {name}",
        f"every rank imports it in place of {name}: errors such as `has no attribute`, or a circular import",
        "rename it, or start from another folder",
        f"mv {path.name} my_{path.name}" if "current" in where else "",
    )


def _hides_standard(name: str, loaded: Collection[str] | None) -> bool:
    """Whether a file of this name would be imported in place of a module of the standard library."""
    if name not in sys.stdlib_module_names or (loaded is not None and name not in loaded):
        return False
    # Built into the interpreter: it looks nowhere else.
    return name not in sys.builtin_module_names and FrozenImporter.find_spec(name) is None
