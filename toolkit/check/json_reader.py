"""JSON with the place of every key, and one clear message where it is not JSON.

The standard library's reader keeps no places and says of a comment only that it expected a key.
"""

import json
import math
import re
from typing import Any, Literal, NamedTuple, NoReturn

from toolkit.check.finding import Location

_SPACE = re.compile(r"[ \t\n\r]*")
_COMMENT = re.compile(r"(?://|#)[^\n\r]*|/\*.*?\*/", re.DOTALL)
_BYTE_ORDER_MARK = "\ufeff"
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_LIKE_A_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F_]+|[\d_.]*\d[\d_.]*(?:[eE][-+]?\d*)?)")
_CURLY = tuple("\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb")
_WORD = re.compile(r"[-+]?[A-Za-z_][A-Za-z0-9_]*")
_LITERALS = {"true": True, "false": False, "null": None}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""What Python's own reader takes beyond JSON, and writes."""
_FOREIGN = {"True": "true", "False": "false", "None": "null"}
_MAX_DEPTH = 100
_MAX_DIGITS = 400
_SHOWN = 40


class Member(NamedTuple):
    """Where a key and its value stand in a text: offsets of the first character and of the one after the last.

    The items of a list have no key: its offsets are the value's.
    """

    key_start: int
    key_end: int
    start: int
    end: int


class Lapse(NamedTuple):
    """What is no JSON and leaves no doubt about what is meant: it is noted, and the reading goes on."""

    rule: Literal["comment", "comma", "not-finite", "byte-order-mark", "encoding"]
    message: str
    start: int
    end: int
    instead: str | None = ""
    """What JSON has there; None where it has nothing of the kind."""


class NotJson(Exception):
    """The text is no JSON."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class Read(NamedTuple):
    """A JSON text that was read."""

    value: Any
    members: dict[Location, Member]
    """Of every key and list item, by location."""
    repeated: list[tuple[Location, int]]
    """Keys that stand twice in an object, with the offset of the second; the last value is kept, as by Python."""
    lapses: list[Lapse]
    """Commas too many or too few, comments, Infinity: in the order of the text."""


def read(text: str) -> Read:
    """The value of a JSON text and the places of its keys.

    Raises:
        NotJson: with what is wrong and where.
    """
    reader = _Reader(text)
    start = reader.blank(reader.byte_order_mark())
    if start == len(text):
        raise NotJson("the file is empty; a JSON object in braces was expected", start)
    value, end = reader.value(start, ())
    if (rest := reader.blank(end)) < len(text):
        raise NotJson(f"the file goes on after its value, with {text[rest : rest + 10]!r}; remove the rest", rest)
    return Read(value, reader.members, reader.repeated, sorted(reader.lapses, key=lambda lapse: lapse.start))


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.members: dict[Location, Member] = {}
        self.repeated: list[tuple[Location, int]] = []
        self.lapses: list[Lapse] = []

    def byte_order_mark(self) -> int:
        """The offset after it, where there is one."""
        if not self.text.startswith(_BYTE_ORDER_MARK):
            return 0
        told = "the file begins with a byte-order mark, as some editors of Windows write it"
        self.lapses.append(Lapse("byte-order-mark", told, 0, 1))
        return 1

    def blank(self, offset: int) -> int:
        """The first offset from here that is neither white space nor in a comment."""
        while True:
            found = _SPACE.match(self.text, offset)
            offset = found.end() if found else offset
            if (comment := _COMMENT.match(self.text, offset)) is None:
                break
            self.lapses.append(Lapse("comment", "comments are not JSON", offset, comment.end()))
            offset = comment.end()
        if self.text.startswith("/*", offset):
            raise NotJson("a comment that never ends with */", offset)
        return offset

    def value(self, offset: int, at: Location) -> tuple[Any, int]:
        """The value that begins here, and the offset after it."""
        if len(at) > _MAX_DEPTH:
            raise NotJson(f"more than {_MAX_DEPTH} brackets inside each other, which no config needs", offset)
        match self.text[offset : offset + 1]:
            case "{":
                return self._object(offset, at)
            case "[":
                return self._array(offset, at)
            case '"':
                return self._string(offset)
        return self._scalar(offset)

    def _object(self, start: int, at: Location) -> tuple[dict[str, Any], int]:
        content: dict[str, Any] = {}
        offset, last_comma = self.blank(start + 1), start
        if self.text.startswith("}", offset):
            return content, offset + 1
        while True:
            key_start = offset = self._commas(offset)
            if self.text.startswith("}", offset):
                self._spare_comma(last_comma, "brace")
                return content, offset + 1
            if not self.text.startswith('"', offset):
                self._refuse_key(offset)
            key, key_end = self._string(offset)
            offset = self.blank(key_end)
            if not self.text.startswith(":", offset):
                raise NotJson(f'a colon is missing after the key "{key}"', offset)
            here = (*at, key)
            value_start = self.blank(offset + 1)
            value, end = self.value(value_start, here)
            if key in content:
                self.repeated.append((here, key_start))
            content[key] = value
            self.members[here] = Member(key_start, key_end, value_start, end)
            offset, closed = self._after(end, "}", start)
            if closed:
                return content, offset
            last_comma, offset = offset - 1, self.blank(offset)

    def _array(self, start: int, at: Location) -> tuple[list[Any], int]:
        content: list[Any] = []
        offset, last_comma = self.blank(start + 1), start
        if self.text.startswith("]", offset):
            return content, offset + 1
        while True:
            offset = self._commas(offset)
            if self.text.startswith("]", offset):
                self._spare_comma(last_comma, "bracket")
                return content, offset + 1
            here = (*at, len(content))
            value, end = self.value(offset, here)
            content.append(value)
            self.members[here] = Member(offset, end, offset, end)
            offset, closed = self._after(end, "]", start)
            if closed:
                return content, offset
            last_comma, offset = offset - 1, self.blank(offset)

    def _after(self, end: int, closing: str, opened: int) -> tuple[int, bool]:
        """The offset after the comma or the closing bracket that follows a value, and whether it was the bracket."""
        offset = self.blank(end)
        if self.text[offset : offset + 1] in (",", closing):
            return offset + 1, self.text[offset] == closing
        if self.text.startswith('"', offset) and "\n" in self.text[end:offset]:
            self.lapses.append(Lapse("comma", "a comma is missing at the end of the line", end, end, ","))
            return offset, False
        if offset == len(self.text):
            line = self.text.count("\n", 0, opened) + 1
            raise NotJson(f"the file ends before the bracket of line {line} is closed with {closing}", offset)
        raise NotJson(f"a comma or {closing} is missing before {self.text[offset : offset + 10]!r}", end)

    def _commas(self, offset: int) -> int:
        """The offset after commas that stand where a member begins."""
        while self.text.startswith(",", offset):
            self.lapses.append(Lapse("comma", "a comma too many", offset, offset + 1))
            offset = self.blank(offset + 1)
        return offset

    def _spare_comma(self, offset: int, closing: str) -> None:
        if self.text[offset] != ",":
            return  # Nothing but commas stood between the brackets, or none did at the end of a line.
        self.lapses.append(Lapse("comma", f"a comma before the closing {closing}", offset, offset + 1))

    def _refuse_key(self, offset: int) -> NoReturn:
        if self.text.startswith(("'", *_CURLY), offset):
            raise NotJson('a key in other quotes than "; JSON has no others', offset)
        if offset == len(self.text):
            raise NotJson("the file ends where a key was expected", offset)
        raise NotJson(f"a key in double quotes was expected, not {self.text[offset : offset + 10]!r}", offset)

    def _string(self, offset: int) -> tuple[str, int]:
        found = _STRING.match(self.text, offset)
        if found is None:
            raise NotJson("a text that does not end on its line with a double quote", offset)
        if "\\" not in found.group():
            return found.group()[1:-1], found.end()
        try:
            return str(json.loads(found.group())), found.end()
        except json.JSONDecodeError as error:
            raise NotJson(f"a broken text ({error.msg})", offset + error.pos) from None

    def _scalar(self, offset: int) -> tuple[Any, int]:
        number, like = _NUMBER.match(self.text, offset), _LIKE_A_NUMBER.match(self.text, offset)
        if like and like.end() > (number.end() if number else offset):
            told = f"{like.group()[:_SHOWN]} is no number of JSON"
            raise NotJson(f"{told}: no sign +, no leading 0, and digits on both sides of a point", offset)
        if number and not _WORD.match(self.text, number.end()):
            return self._number(number), number.end()
        word = _WORD.match(self.text, offset)
        found = word.group() if word else self.text[offset : offset + 10]
        if word and found in _LITERALS:
            return _LITERALS[found], word.end()
        if found in _FOREIGN:
            raise NotJson(f"{found} is Python; JSON has {_FOREIGN[found]}", offset)
        if word and found in _NOT_FINITE:
            told = f"{found} is no number of JSON"
            self.lapses.append(Lapse("not-finite", told, offset, word.end(), None))
            return _NOT_FINITE[found], word.end()
        if found.lstrip("+-") in ("NaN", "Infinity", "inf", "nan"):
            raise NotJson(f"{found} is no number of JSON; write a finite one", offset)
        if found.startswith(("'", *_CURLY)):
            raise NotJson('text in other quotes than "; JSON has no others', offset)
        if offset == len(self.text):
            raise NotJson("the file ends where a value was expected", offset)
        raise NotJson(f"a value was expected, not {found!r}", offset)

    def _number(self, found: re.Match[str]) -> int | float:
        if found[1] is None and found[2] is None and len(found.group()) <= _MAX_DIGITS:
            return int(found.group())
        number = float(found.group())
        if not math.isfinite(number):
            raise NotJson(f"{found.group()[:_SHOWN]} is too large for a number", found.start())
        return number
