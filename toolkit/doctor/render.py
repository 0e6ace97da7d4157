"""An examination as text for a terminal, as JSON, and as Markdown for a bug report."""

import json
from collections.abc import Callable
from typing import Any

from toolkit.doctor.api import Examination
from toolkit.doctor.finding import Finding
from toolkit.doctor.redact import Identity, redacted_all
from toolkit.doctor.summary import summary_lines

SCHEMA = 1
"""Of the JSON; where a key goes or changes its meaning it becomes another number."""

_Paint = Callable[[str, str], str]


def as_text(found: Examination, *, facts: bool, paint: _Paint) -> str:
    """For people.

    Args:
        found: the examination.
        facts: with all facts.
        paint: colours a word by its kind: a severity, or yes, no and untried.
    """
    longest = max(len(one.name) for one in found.capabilities)
    lines = [*summary_lines(found), "", "This machine can"]
    lines += [f"  {paint(f'{one.can:<8}', one.can)}{one.name:<{longest}}  {one.why}" for one in found.capabilities]
    lines.append("")
    for finding in found.findings:
        lines += _finding_lines(finding, paint)
    if facts:
        lines += ["", *(f"{name}: {value}" for name, value in _flat(_facts(found)))]
    return "\n".join([*lines, _counted(found)])


def as_data(found: Examination, identity: Identity, *, version: str) -> dict[str, Any]:
    """Everything, as JSON has it, without what names a person or a host."""
    section_of = {one: section.name for section in found.sections for one in section.findings}
    findings = [
        {
            "severity": one.severity,
            "rule": one.rule,
            "section": section_of[one],
            "message": one.message,
            "effect": one.effect,
            "remedy": one.remedy,
            "command": one.command,
        }
        for one in found.findings
    ]
    able = [{"name": one.name, "can": one.can, "why": one.why} for one in found.capabilities]
    shown = redacted_all({"capabilities": able, "findings": findings, "facts": _facts(found)}, identity)
    head = {"schema": SCHEMA, "toolkit": version, "blocks_training": found.blocks_training, "counts": _counts(found)}
    return {**head, "seconds": round(found.seconds, 3), **shown}


def as_json(found: Examination, identity: Identity, *, version: str) -> str:
    """The same as text."""
    return json.dumps(as_data(found, identity, version=version), indent=2, ensure_ascii=False, default=str)


def as_markdown(found: Examination, identity: Identity, *, version: str) -> str:
    """A page to attach to a bug report."""
    data = as_data(found, identity, version=version)
    lines = ["# toolkit doctor", "", *redacted_all([f"- {line}" for line in summary_lines(found)], identity), ""]
    lines += ["## This machine can", "", "| | | |", "|---|---|---|"]
    lines += [f"| {one['can']} | {_cell(one['name'])} | {_cell(one['why'])} |" for one in data["capabilities"]]
    lines += ["", "## Findings", ""]
    for one in data["findings"]:
        lines.append(f"- **{one['severity']}** `{one['rule']}` {one['message']}. If left: {one['effect']}")
    lines += [] if data["findings"] else ["None."]
    lines += ["", "## Facts", ""]
    for name, facts in data["facts"].items():
        lines += [f"### {name}", "", "```json", json.dumps(facts, indent=1, ensure_ascii=False, default=str), "```", ""]
    return "\n".join(lines)


def _finding_lines(finding: Finding, paint: _Paint) -> list[str]:
    lines = [f"{paint(finding.severity, finding.severity)}: {finding.message} [{finding.rule}]"]
    lines += [f"    if left: {finding.effect}"] if finding.effect else []
    lines += [f"    fix: {finding.remedy}"] if finding.remedy else []
    return lines + ([f"    run: {finding.command}"] if finding.command else [])


def _facts(found: Examination) -> dict[str, Any]:
    return {section.name: section.facts for section in found.sections}


def _counts(found: Examination) -> dict[str, int]:
    kinds = ("error", "warning", "note")
    return {kind: sum(one.severity == kind for one in found.findings) for kind in kinds}


def _counted(found: Examination) -> str:
    told = ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in _counts(found).items())
    return f"{told}, in {found.seconds:.1f} s"


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Every fact with its path."""
    if isinstance(value, dict) and value:
        return [pair for key, one in value.items() for pair in _flat(one, f"{name}.{key}" if name else str(key))]
    return [(name, json.dumps(value, ensure_ascii=False, default=str))]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
