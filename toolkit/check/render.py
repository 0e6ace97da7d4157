"""Findings as text for people, JSON, SARIF 2.1.0, or GitHub's workflow commands."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from toolkit.check.finding import Finding, Placed, Severity
from toolkit.check.rule_texts import RULE_TEXTS

Format = Literal["text", "json", "sarif", "github"]

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "note"}
_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "notice"}


def rendered(found: Sequence[Placed], style: Format, *, files: int, version: str) -> str:
    """The findings in a format; `version` is the toolkit's."""
    match style:
        case "json":
            return json.dumps(_plain(found, files), indent=2, ensure_ascii=False)
        case "sarif":
            return json.dumps(_sarif(found, version), indent=2, ensure_ascii=False)
        case "github":
            return "\n".join(_command(one) for one in found)
    return as_text(found, files)


def as_text(found: Sequence[Placed], files: int = 1) -> str:
    """The findings for people, and how many there are in so many files."""
    return "\n".join([*(_text(one) for one in found), summary(found, files)])


def counts(found: Sequence[Placed]) -> dict[Severity, int]:
    """How many there are of each severity."""
    kinds: tuple[Severity, ...] = ("error", "warning", "note")
    return {kind: sum(one.finding.severity == kind for one in found) for kind in kinds}


def summary(found: Sequence[Placed], files: int) -> str:
    """One line: '2 errors, 1 warning, 0 notes in 3 files'."""
    told = ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in counts(found).items())
    return f"{told} in {files} file{'' if files == 1 else 's'}"


def _text(one: Placed) -> str:
    finding = one.finding
    lines = [f"{one.file}:{one.line}:{one.column}: {finding.severity}: {_told(finding)} [{finding.rule}]"]
    lines += [f"    if left: {finding.effect}"] if finding.effect else []
    lines += [f"    fix: {finding.remedy}"] if finding.remedy else []
    return "\n".join(lines)


def _told(finding: Finding) -> str:
    """The message with its path, unless it names it itself."""
    named = not finding.path or f"`{finding.path}`" in finding.message
    return finding.message if named else f"{finding.path}: {finding.message}"


def _plain(found: Sequence[Placed], files: int) -> dict[str, Any]:
    findings = [
        {
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "severity": one.finding.severity,
            "rule": one.finding.rule,
            "path": one.finding.path,
            "message": one.finding.message,
            "effect": one.finding.effect,
            "remedy": one.finding.remedy,
            "fixable": one.finding.edit is not None,
        }
        for one in found
    ]
    return {"files": files, "counts": counts(found), "findings": findings}


def _sentences(one: Placed) -> str:
    finding = one.finding
    parts = [_told(finding)]
    parts += [f"If left: {finding.effect}"] if finding.effect else []
    parts += [f"Fix: {finding.remedy}"] if finding.remedy else []
    return ". ".join(parts)


def _sarif(found: Sequence[Placed], version: str) -> dict[str, Any]:
    results = [
        {
            "ruleId": one.finding.rule,
            "level": _LEVELS[one.finding.severity],
            "message": {"text": _sentences(one)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": one.file.replace("\\", "/")},
                        "region": {"startLine": one.line, "startColumn": one.column},
                    }
                }
            ],
        }
        for one in found
    ]
    named = sorted({one.finding.rule for one in found})
    rules = [{"id": rule, "shortDescription": {"text": RULE_TEXTS[rule].says}} for rule in named]
    driver = {"name": "toolkit check", "version": version, "rules": rules}
    return {"$schema": _SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _command(one: Placed) -> str:
    """https://docs.github.com/actions/reference/workflow-commands-for-github-actions"""
    finding = one.finding
    message = _escaped(_sentences(one))
    place = f"file={_property(one.file)},line={one.line},col={one.column},title={_property(finding.rule)}"
    return f"::{_COMMANDS[finding.severity]} {place}::{message}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
