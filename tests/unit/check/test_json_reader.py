"""What is no JSON is told in one message with its line; what is, reads as the standard library reads it."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolkit.check import json_reader
from toolkit.check.api import Question, check_document
from toolkit.check.document import json_document, read_document
from toolkit.check.fix import fixed
from toolkit.check.releases import Release

LAPSES = {
    "comment": ('{\n  "a": 1, // one\n  "b": 2\n}', 2, 11, "comment", "comments", '{\n  "a": 1,\n  "b": 2\n}'),
    "comment in C": ('{\n  /* a */ "a": 1\n}', 2, 3, "comment", "comments are not JSON", '{\n "a": 1\n}'),
    "comment on lines": ('{ /* a\n b */\n"a": 1}', 1, 3, "comment", "comments are not JSON", '{\n"a": 1}'),
    "hash": ('{\n# a\n"a": 1}', 2, 1, "comment", "comments are not JSON", '{\n"a": 1}'),
    "three": ('{// a\n# b\n\t//c\r\n"a": 1}', 1, 2, "comment", "(3 of them)", '{\n"a": 1}'),
    "trailing comma": ('{\n  "a": 1,\n}', 2, 9, "comma", "a comma before the closing brace", '{\n  "a": 1\n}'),
    "trailing comma in a list": ('{\n  "a": [1,\n 2,\n]}', 3, 3, "comma", "closing bracket", '{\n  "a": [1,\n 2\n]}'),
    "missing comma": ('{\n  "a": 1\n  "b": 2}', 2, 9, "comma", "a comma is missing", '{\n  "a": 1,\n  "b": 2}'),
    "two commas": ('{\n  "a": 1,,\n  "b": [2]}', 2, 10, "comma", "too many", '{\n  "a": 1,\n  "b": [2]}'),
    "mark": ('\ufeff{"a": 1}', 1, 1, "byte-order-mark", "byte-order mark", '{"a": 1}'),
    "no number": ('{\n  "a": NaN}', 2, 8, "not-finite", "NaN is no number", '{\n  "a": NaN}'),
    "infinite": ('{\n  "a": -Infinity}', 2, 8, "not-finite", "-Infinity is no number", '{\n  "a": -Infinity}'),
}  # fmt: skip
BROKEN = {
    "comment without an end": ('{\n  "a": 1 /* b\n}', 2, 10, "never ends"),
    "missing comma on a line": ('{\n  "a": 1 "b": 2}', 2, 9, "a comma or } is missing"),
    "missing colon": ('{\n  "a" 1}', 2, 7, "a colon is missing"),
    "single quotes": ("{\n  'a': 1}", 2, 3, "other quotes"),
    "text in single quotes": ("{\n  \"a\": 'b'}", 2, 8, "other quotes"),
    "Python's True": ('{\n  "a": True}', 2, 8, "True is Python; JSON has true"),
    "Python's None": ('{\n  "a": None}', 2, 8, "None is Python"),
    "no number of Python's either": ('{\n  "a": nan}', 2, 8, "nan is no number"),
    "too large": ('{\n  "a": 1e999}', 2, 8, "too large"),
    "curly quotes": ('{\n  \u201ca\u201d: 1}', 2, 3, "other quotes"),
    "half a number": ('{\n  "a": 1.}', 2, 8, "1. is no number"),
    "no digit before": ('{\n  "a": .5}', 2, 8, ".5 is no number"),
    "a leading zero": ('{\n  "a": 08}', 2, 8, "08 is no number"),
    "grouped digits": ('{\n  "a": 1_000}', 2, 8, "1_000 is no number"),
    "hexadecimal": ('{\n  "a": 0x10}', 2, 8, "0x10 is no number"),
    "a bare word": ('{\n  "a": cpu}', 2, 8, "a value was expected"),
    "a bare key": ('{\n  a: 1}', 2, 3, "a key in double quotes"),
    "never closed": ('{\n  "a": {"b": 1\n', 3, 1, "the file ends before the bracket of line 2"),
    "a text over lines": ('{\n  "a": "b\nc"}', 2, 8, "does not end on its line"),
    "more after it": ('{"a": 1}\n{"b": 2}', 2, 1, "goes on after its value"),
    "nothing": ("  \n", 2, 1, "the file is empty"),
    "brackets": ("[" * 200, 1, 102, "brackets inside each other"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAPSES)
def test_what_leaves_no_doubt_is_told_mended_and_read_on(name: str) -> None:
    text, line, column, rule, words, mended = LAPSES[name]
    document = json_document(Path("a.json"), text)
    found = list(check_document(document, Question(Release.parse("0.19.8"), kind="ds_config")))
    (lapse,) = [one for one in found if one.finding.rule == rule]
    assert (lapse.line, lapse.column, lapse.finding.severity) == (line, column, "error")
    assert words in lapse.finding.message
    # The key is checked too: no ds_config has it.
    assert any(one.finding.rule == "no-ds-config" for one in found)
    assert fixed(document, [one.finding for one in found]) == mended


IN_OTHER_ENCODINGS = {
    "utf-16": ("a.json", '{\n "a": 1}'.encode("utf-16"), 1, 1, "is UTF-16", '{\n "a": 1}'),
    "utf-16 of others": ("a.json", '\ufeff{"a": 1, //\n}'.encode("utf-16-be"), 1, 1, "is UTF-16", '{"a": 1\n}'),
    "utf-16 and no JSON": ("a.json", '\ufeff{"a"}'.encode("utf-16-le"), 1, 1, "is UTF-16", '\ufeff{"a"}'),
    "utf-16 in YAML": ("a.yaml", "a: 1\n".encode("utf-16"), 1, 1, "is UTF-16", "a: 1\n"),
    "half of it": ("a.json", b"\xff\xfe{", 1, 3, "damaged", "\xff\xfe{"),
    "Latin-1": ("a.json", '{\r"a": "\xfc"}'.encode("latin-1"), 2, 7, "byte 0xfc", '{\r"a": "\xfc"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_OTHER_ENCODINGS)
def test_another_encoding_is_told_and_read_where_it_says_which(name: str, tmp_path: Path) -> None:
    file, content, line, column, words, mended = IN_OTHER_ENCODINGS[name]
    (tmp_path / file).write_bytes(content)
    document = read_document(tmp_path / file)
    found = list(check_document(document, Question(Release.parse("0.19.8"), kind="ds_config")))
    (told,) = [one for one in found if one.finding.rule == "encoding"]
    assert (told.line, told.column, told.finding.severity) == (line, column, "error")
    assert words in told.finding.message
    assert any(one.finding.rule == "no-ds-config" for one in found) == isinstance(document.value, dict)
    assert fixed(document, [one.finding for one in found]) == mended


def test_deepspeeds_own_reader_takes_comments_and_no_infinity() -> None:
    text = '{"train_batch_size": 1, // one\n"steps_per_print": Infinity,}'
    severities = {
        reader: {one.finding.rule: one.finding.severity for one in check_document(
            json_document(Path("a.json"), text), Question(Release.parse("0.19.8"), read_by=reader)
        )} for reader in (None, "trainer", "deepspeed", "toolkit")
    }  # fmt: skip
    for reader, numbers in ((None, "warning"), ("trainer", "warning"), ("deepspeed", "error"), ("toolkit", "error")):
        assert severities[reader]["not-finite"] == numbers
        assert {severities[reader][rule] for rule in ("comment", "comma")} == {
            "note" if reader == "deepspeed" else "error"
        }


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
@given(st.text(alphabet='{}[]":,01e-.tfn\\ \n/#x*', max_size=30))
@example("[,]")
@example('{,"a":[1,,2,,],}')
@example('{"a":1\n"b":{,},}')
def test_accepts_what_the_standard_library_accepts_and_says_what_it_does_not(text: str) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        try:
            read = json_reader.read(text)
        except json_reader.NotJson as error:
            read, offset = None, error.offset
        if read is None:
            assert 0 <= offset <= len(text)
            return
        assert read.lapses
        mended = text
        for lapse in reversed(read.lapses):
            mended = f"{mended[: lapse.start]}{lapse.instead}{mended[lapse.end :]}"
        assert json.loads(mended) == read.value
    else:
        read = json_reader.read(text)
        assert (read.value, read.lapses) == (wanted, [])
