"""A file as the checks see it: its value, and the line of every key."""

import bisect
import codecs
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from toolkit.check import json_reader
from toolkit.check.finding import Edit, Finding, Location, Placed
from toolkit.check.json_reader import Lapse, Member
from toolkit.specs.reading import MAX_JSON_BYTES, MAX_YAML_BYTES, BoundedLoader, NotUtf8, bounded_text


@dataclass(frozen=True)
class Document:
    """A file that was read."""

    path: Path
    text: str
    value: Any
    members: dict[Location, Member]
    """Places of keys and list items, by location."""
    faults: tuple[tuple[Finding, int], ...] = ()
    """What was wrong while reading, with the offset; a file that could not be read to its end has the value None."""
    lapses: tuple[Lapse, ...] = ()
    """What is no JSON and was read all the same; `faults` has a finding of each rule."""

    @property
    def broken(self) -> bool:
        """Whether nothing could be read."""
        return not isinstance(self.value, dict)

    @property
    def content(self) -> dict[str, Any]:
        """The mapping; empty where the value is none."""
        return self.value if isinstance(self.value, dict) else {}

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(end.end() for end in re.finditer(r"\r\n?|\n", self.text))]

    def place(self, finding: Finding, offset: int | None = None) -> Placed:
        """The finding with the line of its key, or of the innermost section around it that stands in the file."""
        if offset is None:
            location = finding.location
            while location and location not in self.members:
                location = location[:-1]
            offset = self.members[location].key_start if location else 0
        line = bisect.bisect_right(self._line_starts, offset)
        column = offset - self._line_starts[line - 1] + 1
        # Editors do not count a byte-order mark.
        return Placed(str(self.path), line, max(1, column - (line == 1 and self.text.startswith(_MARK))), finding)


def read_document(path: Path) -> Document:
    """Read a file: JSON where its name ends in .json, else YAML.

    Raises:
        SpecError: missing, unreadable, or larger than such files are.
    """
    of_json = path.suffix.lower() == ".json"
    try:
        text = bounded_text(path, MAX_JSON_BYTES if of_json else MAX_YAML_BYTES, with_mark=of_json)
    except NotUtf8 as error:
        return _in_other_encoding(path, error.content)
    return json_document(path, text) if of_json else yaml_document(path, text)


_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def _in_other_encoding(path: Path, content: bytes) -> Document:
    """Read all the same, where a mark says what it is: as Windows' Notepad and PowerShell's `>` write it."""
    finding = _OF_LAPSES["encoding"]
    try:
        text = content.decode(_ENCODINGS.get(content[:2], "utf-8"))
    except UnicodeDecodeError as error:
        damaged = content[:2] in _ENCODINGS
        told = "the file is UTF-16, and damaged" if damaged else f"byte {content[error.start]:#04x} is not UTF-8"
        found = replace(finding, message=told, edit=None)
        return Document(path, content.decode("latin-1"), None, {}, ((found, error.start),))
    found = replace(finding, message="the file is UTF-16, as PowerShell's > writes it")
    if path.suffix.lower() != ".json":
        document = yaml_document(path, text.removeprefix(_MARK))
        return replace(document, faults=((replace(found, edit=None), 0), *document.faults))
    document = json_document(path, text)
    others = (fault for fault in document.faults if fault[0].rule != "byte-order-mark")
    lapses = (
        lapse._replace(rule="encoding") if lapse.rule == "byte-order-mark" else lapse for lapse in document.lapses
    )
    return replace(document, faults=((found, 0), *others), lapses=tuple(lapses))


def json_document(path: Path, text: str) -> Document:
    """The document of a JSON text."""
    try:
        read = json_reader.read(text)
    except json_reader.NotJson as error:
        return _broken(path, text, f"not JSON: {error}", error.offset)
    repeated = [(_repeated(location), offset) for location, offset in read.repeated]
    faults = (*_lapses(read.lapses), *repeated, *_no_object(read.value))
    return Document(path, text, read.value, read.members, faults, tuple(read.lapses))


def yaml_document(path: Path, text: str) -> Document:
    """The document of a YAML text."""
    loader = BoundedLoader(text)
    try:
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        return _broken(path, text, f"not YAML: {problem[:200]}", mark.index if mark else 0)
    except (ValueError, RecursionError) as error:  # PyYAML lets them out: the date 2001-99-99, thousands of brackets.
        return _broken(path, text, f"a value that YAML cannot read ({str(error)[:200]}); put it in quotes", 0)
    finally:
        loader.dispose()
    members: dict[Location, Member] = {}
    if node is not None:
        _add_members(node, (), members)
    return Document(path, text, value, members, tuple(_no_object(value)))


def _add_members(node: yaml.Node, at: Location, members: dict[Location, Member]) -> None:
    if len(at) > 20:  # An alias may stand inside itself.
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here = (*at, key.value)
                marks = (key.start_mark, key.end_mark, value.start_mark, value.end_mark)
                members[here] = Member(*(mark.index for mark in marks))
                _add_members(value, here, members)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            start, end = value.start_mark.index, value.end_mark.index
            members[(*at, index)] = Member(start, end, start, end)
            _add_members(value, (*at, index), members)


def _broken(path: Path, text: str, message: str, offset: int) -> Document:
    finding = Finding("error", "syntax", (), message, "nothing reads the file", "mend the line")
    return Document(path, text, None, {}, ((finding, min(offset, len(text))),))


_MARK = "\ufeff"
_PYTHONS = "transformers and accelerate read with Python's json and refuse the file; DeepSpeed's own reader takes it"
_OF_LAPSES = {
    "comment": Finding("error", "comment", (), "", _PYTHONS, "remove them", Edit("lapse")),
    "comma": Finding("error", "comma", (), "", _PYTHONS, "mend the line", Edit("lapse")),
    "byte-order-mark": Finding("error", "byte-order-mark", (), "", _PYTHONS, "save it without", Edit("lapse")),
    "encoding": Finding(
        "error", "encoding", (), "", "everybody reads UTF-8: a UnicodeDecodeError", "save it as UTF-8", Edit("lapse"),
    ),
    "not-finite": Finding(
        "error", "not-finite", (), "", "Python's json takes it, DeepSpeed's own reader and this toolkit do not",
        "write a number",
    ),
}  # fmt: skip


def _lapses(lapses: list[Lapse]) -> list[tuple[Finding, int]]:
    """Each of them, comments together."""
    comments = sum(lapse.rule == "comment" for lapse in lapses)
    found: list[tuple[Finding, int]] = []
    commented = False
    for lapse in lapses:
        if lapse.rule == "comment" and commented:
            continue
        commented = commented or lapse.rule == "comment"
        number = f" ({comments} of them)" if lapse.rule == "comment" and comments > 1 else ""
        finding = replace(_OF_LAPSES[lapse.rule], message=lapse.message + number)
        # accelerate itself writes it, as the number of steps between two prints.
        never = lapse.message.startswith("Infinity")
        found.append((replace(finding, severity="warning") if never else finding, lapse.start))
    return found


def _repeated(location: Location) -> Finding:
    return Finding(
        "error",
        "repeated-key",
        location,
        "the key is given twice",
        "DeepSpeed refuses the file; transformers and accelerate take the last value without a word",
        "keep one of the two",
    )


def _no_object(value: Any) -> list[tuple[Finding, int]]:
    if isinstance(value, dict):
        return []
    told = f"the file holds {'nothing' if value is None else type(value).__name__}, a mapping of keys was expected"
    return [(Finding("error", "syntax", (), told, "nothing reads the file", "give the right file"), 0)]
