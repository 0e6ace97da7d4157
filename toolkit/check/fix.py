"""A corrected copy: the edits that cannot make anything worse, in the text as it was written."""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from toolkit.check.document import Document, json_document, yaml_document
from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.json_reader import Lapse, Member

_Change = tuple[int, int, str]
"""From, to, and what stands there instead."""
_TAKEN = ("no", "yes", "on", "off", "true", "false", "null", "y", "n")


def fixed(document: Document, findings: Iterable[Finding]) -> str:
    """The text with the edits that the findings carry; the same text where there are none."""
    wanted: dict[Location, Edit] = {}
    lapsed = set()
    for finding in findings:
        if finding.edit is not None and finding.edit.kind == "lapse":
            lapsed.add(finding.rule)
        elif finding.edit is not None and finding.location in document.members:
            wanted.setdefault(finding.location, finding.edit)
    gone = {at for at, edit in wanted.items() if edit.kind == "remove"}
    text = document.text
    names = {at for at in document.members if at not in gone}
    changes: list[_Change] = []
    for at, edit in wanted.items():
        if _inside(at, gone):
            continue
        new = edit.text if edit.kind == "rename" else edit.name
        if new and (*at[:-1], new) in names:
            continue  # Both names are there: only their author knows which one counts.
        names.add((*at[:-1], new))
        changes += _changes(document, at, edit)
    if document.path.suffix.lower() == ".json":
        changes += _removals(document, {at for at in gone if not _inside(at, gone)})
    changes += [_cut(text, lapse) for lapse in document.lapses if lapse.rule in lapsed]
    return _applied(text, changes)


def _applied(text: str, changes: list[_Change]) -> str:
    """The text with all changes; of what lies inside a larger one, nothing is left to change."""
    parts, done = [], 0
    for start, end, instead in sorted(changes, key=lambda change: (change[0], -change[1])):
        if end < done:
            continue
        parts += [text[done:start], instead]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _cut(text: str, lapse: Lapse) -> _Change:
    """Of a comment, the white space before it too, and the line where nothing else stands on it."""
    start, end = lapse.start, lapse.end
    if lapse.rule == "comment":
        start = len(text[:start].rstrip(" \t"))
        alone = start == 0 or text[start - 1] == "\n"
        rest = text[end:].lstrip(" \t\r")
        if alone and rest.startswith("\n"):
            end = len(text) - len(rest) + 1
    return start, end, lapse.instead or ""


def _inside(at: Location, gone: set[Location]) -> bool:
    return any(at[:length] in gone for length in range(1, len(at)))


def difference(document: Document, text: str, name: str) -> str:
    """The unified diff from the file to its corrected text."""
    old, new = document.text.splitlines(keepends=True), text.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, str(document.path), name))


def reread(document: Document, text: str, path: Path) -> Document:
    """The corrected text as the document that is written to a path."""
    read = json_document if document.path.suffix.lower() == ".json" else yaml_document
    return read(path, text)


def fixed_name(path: Path) -> Path:
    """ds_config.json -> ds_config.fixed.json."""
    return path.with_name(f"{path.stem}.fixed{path.suffix}")


def _changes(document: Document, at: Location, edit: Edit) -> list[_Change]:
    member, is_json = document.members[at], document.path.suffix.lower() == ".json"
    key = (json.dumps if is_json else str)(edit.text if edit.kind == "rename" else edit.name)
    if edit.kind == "rename":
        return [(member.key_start, member.key_end, key)]
    if edit.kind == "replace":
        changes = [(member.start, member.end, edit.text if is_json else _plain(edit.text))]
        return [*changes, (member.key_start, member.key_end, key)] if edit.name else changes
    return [] if is_json else _yaml_line(document, member)


def _plain(text: str) -> str:
    """A JSON text as YAML writes it: a word needs no quotes, unless YAML has another meaning for it."""
    word = re.fullmatch(r'"([A-Za-z_]+)"', text)
    return word[1] if word and word[1].lower() not in _TAKEN else text


def _yaml_line(document: Document, member: Member) -> list[_Change]:
    """A `key: value` line; what spans several lines or shares one is left to its author."""
    start = document.text.rfind("\n", 0, member.key_start) + 1
    end = document.text.find("\n", member.key_start) + 1 or len(document.text)
    alone = not document.text[start : member.key_start].strip()
    rest = document.text[member.end : end].lstrip()[:1]
    return [(start, end, "")] if alone and member.end <= end and rest in ("", "#") else []


def _removals(document: Document, gone: set[Location]) -> list[_Change]:
    """Members of JSON objects with the comma that goes with each."""
    changes: list[_Change] = []
    for parent in {at[:-1] for at in gone}:
        siblings = [at for at in document.members if len(at) == len(parent) + 1 and at[:-1] == parent]
        places = [document.members[at] for at in sorted(siblings, key=lambda at: document.members[at].key_start)]
        removed = {document.members[at] for at in gone if at[:-1] == parent}
        kept = [index for index, member in enumerate(places) if member not in removed]
        if not kept:
            changes.append((places[0].key_start, places[-1].end, ""))
            continue
        for index, member in enumerate(places):
            if member in removed and index < kept[-1]:  # Up to the next key.
                changes.append((member.key_start, places[index + 1].key_start, ""))
            elif member in removed:  # From the end of the one before, its comma too.
                changes.append((places[index - 1].end, member.end, ""))
    return changes
