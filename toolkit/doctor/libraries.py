"""Whether the training half can be imported, and what torch sees of the devices."""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.doctor.explained import explain
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.told import Told

IMPORTED = ("torch", "deepspeed", "accelerate", "transformers")
"""In this order; peft and Megatron take five seconds more and are left to `--full`."""

SLOW_IMPORT_SECONDS = 30.0
_REINSTALL = "pip install --force-reinstall -c constraints.txt -e '.[train]'"


def examine_libraries(told: Told, installed: Mapping[str, str | None]) -> Section:
    """The probe, from what the imports told."""
    facts = {name: told.section(f"import {name}") for name in IMPORTED if told.section(f"import {name}")}
    findings = [*judge_imports(told, installed), *_judge_requirements(told.answers.get("requirements"))]
    return Section("imports", facts, tuple(findings))


def judge_imports(told: Told, installed: Mapping[str, str | None]) -> Iterator[Finding]:
    """Imports that failed, ended the process, or took long."""
    for name in IMPORTED:
        found = told.section(f"import {name}")
        if installed.get(name) is None:
            continue  # told as missing
        if error := found.get("error"):
            yield import_failure(name, str(error))
        elif found.get("release") and _base(found["release"]) != _base(installed[name] or ""):
            yield Finding(
                "warning",
                "two-installs",
                f"{name}: pip knows {installed[name]}, what is imported says {found['release']}",
                "files of two releases are mixed, or another folder's copy is found first",
                command=f"pip uninstall -y {name}; pip install -c constraints.txt {name}",
            )
        seconds = found.get("seconds", 0.0)
        if seconds > SLOW_IMPORT_SECONDS:
            yield Finding(
                "warning",
                "slow-import",
                f"importing {name} took {seconds:.0f} s",
                "every rank waits as long at each start: a busy machine, or an environment on a slow network disk",
                "keep the environment on a local disk",
            )
    if told.end is not None and told.step and any(installed.get(name) for name in IMPORTED):
        yield import_failure(told.step.removeprefix("import "), told.end)


def import_failure(name: str, error: str, *, blocks: bool = True) -> Finding:
    """The finding for a library that is installed and cannot be imported."""
    known = explain(error)
    return Finding(
        "error" if blocks else "warning",
        "import-fails",
        f"{name} is installed and cannot be imported: {error}" + (f" ({known.meaning})" if known else ""),
        "what needs it ends with this error",
        known.remedy if known else "",
        known.command if known else _REINSTALL,
    )


def _judge_requirements(unmet: Any) -> Iterator[Finding]:
    if isinstance(unmet, list) and unmet:
        told = [f"{one['library']} needs {one['needs']}, {one['installed'] or 'none'} is installed" for one in unmet]
        yield Finding(
            "warning",
            "unmet-requirements",
            "; ".join(told),
            "transformers refuses to be imported for some of these; others fail when they are first used",
            remedy="in the toolkit's own folder:",
            command="pip install -c constraints.txt -e '.[train]'",
        )


def _base(release: str) -> str:
    return release.partition("+")[0]
