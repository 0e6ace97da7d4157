"""What is no JSON is told in one message with its line; what is, reads as the standard library reads it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.check import json_reader
from toolkit.check.api import Question, check_document
from toolkit.check.document import json_document
from toolkit.check.releases import Release

BROKEN = {
    "comment": ('{\n  "a": 1, // one\n  "b": 2\n}', 2, 11, "comments are not JSON"),
    "comment in C": ('{\n  /* a */ "a": 1\n}', 2, 3, "comments are not JSON"),
    "hash": ('{\n# a\n"a": 1}', 2, 1, "comments are not JSON"),
    "trailing comma": ('{\n  "a": 1,\n}', 2, 9, "a comma before the closing brace"),
    "trailing comma in a list": ('{\n  "a": [1,\n 2,\n]}', 3, 3, "a comma before the closing bracket"),
    "missing comma": ('{\n  "a": 1\n  "b": 2}', 2, 9, "a comma or } is missing"),
    "missing colon": ('{\n  "a" 1}', 2, 7, "a colon is missing"),
    "single quotes": ("{\n  'a': 1}", 2, 3, "single quotes"),
    "text in single quotes": ("{\n  \"a\": 'b'}", 2, 8, "single quotes"),
    "Python's True": ('{\n  "a": True}', 2, 8, "True is Python; JSON has true"),
    "Python's None": ('{\n  "a": None}', 2, 8, "None is Python"),
    "no number": ('{\n  "a": NaN}', 2, 8, "NaN is no number"),
    "too large": ('{\n  "a": 1e999}', 2, 8, "too large"),
    "a bare word": ('{\n  "a": cpu}', 2, 8, "a value was expected"),
    "a bare key": ('{\n  a: 1}', 2, 3, "a key in double quotes"),
    "never closed": ('{\n  "a": {"b": 1\n', 3, 1, "the file ends before the bracket of line 2"),
    "a text over lines": ('{\n  "a": "b\nc"}', 2, 8, "does not end on its line"),
    "more after it": ('{"a": 1}\n{"b": 2}', 2, 1, "goes on after its value"),
    "nothing": ("  \n", 2, 1, "the file is empty"),
    "brackets": ("[" * 200, 1, 102, "brackets inside each other"),
}  # fmt: skip


def told(text: str) -> list[tuple[int, int, str, str]]:
    found = check_document(json_document(Path("a.json"), text), Question(Release.parse("0.19.8")))
    return [(one.line, one.column, one.finding.rule, one.finding.message) for one in found]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_json_is_told_once_in_its_place(name: str) -> None:
    text, line, column, words = BROKEN[name]
    ((found_line, found_column, rule, message),) = told(text)
    assert (found_line, found_column, rule) == (line, column, "syntax")
    assert words in message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_reads_what_the_standard_library_writes(value: object, indent: int | str | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    read = json_reader.read(text)
    assert read.value == value
    assert not read.repeated
    for location, member in read.members.items():
        if isinstance(location[-1], str):
            assert json.loads(text[member.key_start : member.key_end]) == location[-1]
        inner = value
        for part in location:
            inner = inner[part]  # type: ignore[index]
        assert json.loads(text[member.start : member.end]) == inner


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]":,01e-.tfn\\ \n/#x', max_size=30))
def test_accepts_what_the_standard_library_accepts(text: str) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(json_reader.NotJson) as caught:
            json_reader.read(text)
        assert 0 <= caught.value.offset <= len(text)
    else:
        assert json_reader.read(text).value == wanted
