"""What `toolkit check` knows: its rules with examples, faults of releases, removed keys, and every known key."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from site_pages.markdown import code, codes, page, plain, table
from toolkit.check.api import Question, check_document
from toolkit.check.context import Asked
from toolkit.check.document import json_document, yaml_document
from toolkit.check.ds_schema import DS_CONFIG
from toolkit.check.finding import Finding, Severity
from toolkit.check.known_bad import FAULTS
from toolkit.check.releases import TESTED_DEEPSPEED, Release
from toolkit.check.removed import REMOVED
from toolkit.check.rule_texts import RULE_TEXTS, Subject
from toolkit.check.schema import Key, Section
from unit.check import accelerate_cases, ds_cases

_SEVERITIES: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "note"}
_KINDS = {
    "flag": "true or false",
    "int": "whole number",
    "number": "number",
    "text": "text",
    "choice": "choice",
    "numbers": "list of numbers",
    "list": "list",
    "texts": "list of text",
    "words": "text or list",
    "mapping": "mapping",
    "section": "section",
    "open": "anything",
    "never": "not from a file",
}
_RULES = (
    "Every finding of [`toolkit check`](../check.md) ends with the name of its rule in brackets. These are all of "
    "them; the examples are findings that the check's own tests provoke, made again with this page."
)
_FAULTS = (
    "Settings that are right, in releases of DeepSpeed that compute something else with them. The check names those "
    "of the installed release, or of `--deepspeed X.Y.Z`; the numbers are of DeepSpeed's issues and pull requests."
)
_REMOVED = 'Keys that are refused although they say `"enabled": false`.'
_KEYS = (
    f"Every key that DeepSpeed {TESTED_DEEPSPEED} reads in a `ds_config.json`, as `toolkit check` knows them. What "
    "stands at the top level and is not in this list is ignored without a word. Which of them this toolkit "
    "writes, and which may be edited in a run: [editing by hand](../hand-editing.md)."
)


def rules() -> str:
    """The page of the rules."""
    examples = _examples()
    sections = []
    for subject in get_args(Subject):
        rows = [
            (f"**{code(rule)}**", ", ".join(_SEVERITIES[one] for one in text.severities), plain(text.says),
             _example(examples.get(rule)))
            for rule, text in sorted(RULE_TEXTS.items())
            if text.subject == subject
        ]  # fmt: skip
        title = subject[0].upper() + subject[1:] if subject == "any file" else f"Of {subject}"
        sections.append(f"## {title}\n\n" + table(("Rule", "Severity", "What it finds", "For example"), rows))
    return page("Rules of toolkit check", _RULES, *sections, f"## Faults of releases\n\n{_FAULTS}\n\n" + faults(),
                f"## Removed keys\n\n{_REMOVED}\n\n" + removed(), wide=True)  # fmt: skip


def faults() -> str:
    """Known-bad releases, newest fix first."""
    rows = [
        (fault.issue, fault.words, "the first" if fault.first == "0.0.0" else fault.first, fault.fixed)
        for fault in sorted(FAULTS, key=lambda one: Release.parse(one.fixed), reverse=True)
    ]
    return table(("Issue", "What goes wrong", "From release", "Fixed in"), rows)


def removed() -> str:
    """Removed keys by release."""
    rows = [(code(path), gone.since, gone.instead) for path, gone in sorted(REMOVED.items())]
    return table(("Key", "Gone since", "Instead"), rows)


def known_keys() -> str:
    """The page of DeepSpeed's keys."""
    sections = [f"## {path or 'Top level'}\n\n{_section(section)}" for path, section in _sections("", DS_CONFIG)]
    return page("Keys of ds_config.json", _KEYS, *sections)


def _sections(path: str, section: Section) -> Iterator[tuple[str, Section]]:
    yield path, section
    for name, key in section.keys.items():
        if key.section is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), key.section)


def _section(section: Section) -> str:
    unknown = {"refused": "Other keys are refused.", "ignored": "Other keys are ignored without a word.", "open": ""}
    rows = []
    for name, key in section.keys.items():
        others = [alias for alias, meant in (section.aliases or {}).items() if meant == name]
        default = "" if key.default is None or key.kind == "section" else code(json.dumps(key.default))
        rows.append((codes([name, *others]), _KINDS[key.kind], default, _range(key), key.since))
    header = ("Key, other names", "Type", "Default", "Allowed", "Since")
    return f"{unknown[section.unknown]}\n\n" + table(header, rows)


def _range(key: Key) -> str:
    words = [codes(key.choices)] if key.choices else []
    if key.low is not None:
        words.append(f"above {key.low:g}" if key.above else f"{key.low:g} and more")
    if key.high is not None:
        words.append(f"below {key.high:g}" if key.below else f"up to {key.high:g}")
    return ", ".join(words)


def _example(finding: Finding | None) -> str:
    if finding is None:
        return ""
    where = f"{code(finding.path)}: " if finding.path and f"`{finding.path}`" not in finding.message else ""
    told = f"{where}{plain(finding.message)}"
    told += f"<br>If left: {plain(finding.effect)}." if finding.effect else ""
    return told + (f"<br>Fix: {plain(finding.remedy)}." if finding.remedy else "")


_FURTHER: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"members": '"torch_autocast": {"enabled": true}, "fp16": {"enabled": true}, "bf16": {"enabled": false}'}, {}),
    ({"members": '"compile": {"offload_activation": true, "offload_parameters": true}'}, {}),
    ({"members": '"fp32_allreduce": true'}, {}),
    ({"members": '"bf16": {"enabled": false}, "fp16": {"enabled": true, "loss_scale": 1}'}, {}),
    ({"members": '"epochs": 3', "without": tuple(ds_cases.USUAL)}, {"kind": "ds_config"}),
    ({"members": ""}, {"deepspeed": "0.99.0"}),
    ({"members": ""}, {"memory": Asked("llama-2-70b", "8xA100-80GB", 4096, "full", "full")}),
)
"""Configs of rules that only note something, or depend on what the file does not hold; as the cases of the tests."""


def _examples() -> dict[str, Finding]:
    """The first finding of each rule among the broken configs of the tests, and those above."""
    found: dict[str, Finding] = {}
    by_the_way: list[Finding] = []
    cases = [(case.members, case.without, case.words, case.options) for case in ds_cases.BROKEN]
    cases += [(str(one["members"]), one.get("without", ()), "", options) for one, options in _FURTHER]
    for members, without, words, options in cases:
        text = ds_cases.complete(members, without).replace("^", "")
        given = {"deepspeed": TESTED_DEEPSPEED, **options}
        question = Question(**{**given, "deepspeed": Release.parse(str(given["deepspeed"]))})
        for one in check_document(json_document(Path("ds_config.json"), text), question):
            by_the_way.append(one.finding)
            if words in one.finding.message and words:
                found.setdefault(one.finding.rule, one.finding)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ds_config.json").write_text("{}", encoding="utf-8")
        for broken in accelerate_cases.BROKEN:
            text = broken.text if "distributed_typ:" in broken.text else accelerate_cases.complete(broken.text)
            question = Question(Release.parse(TESTED_DEEPSPEED), kind="accelerate")
            path = Path(folder) / "accelerate.yaml"
            for one in check_document(yaml_document(path, text.replace("^", "")), question):
                by_the_way.append(one.finding)
                if broken.words in one.finding.message:
                    found.setdefault(one.finding.rule, one.finding)
    for finding in by_the_way:
        found.setdefault(finding.rule, finding)
    return found
