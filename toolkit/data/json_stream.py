"""Values of JSON files in flat memory, each with the line on which it starts.

`json.load` needs the whole file twice (text and objects) and knows no line of a row that is valid JSON but no sample; a
500 MB instruction file is ordinary. Here a window of about a megabyte moves over the file.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from toolkit.errors import DataError

CHUNK_BYTES = 1 << 20
WHOLE_OBJECT_CHARS = 8 << 20
"""An object longer than this is no sample: it is taken for a file whose samples are in an array inside one object."""
MAX_VALUE_CHARS = 16 << 20
"""A sample longer than this is none: a row, or a value beside the samples, is held in memory whole."""
MAX_EXPANSION = 250
"""How many times larger than its file gzip data may be; text packs 3 to 20 times, a gzip bomb 1000 times."""
FREE_EXPANSION_BYTES = 256 << 20
"""Unpacked size that needs no such justification."""
ROW_LISTS = frozenset({"messages", "conversations"})
"""Arrays under these keys are a sample's turns, not a file's samples."""

_BLANK = re.compile(r"[ \t\r\n]*")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key `{next(key for key in keys if keys.count(key) > 1)}` twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_CUT_TAIL = 10
"""A literal (`-Infinity`) or an escape cut by the window's end is reported at most this far before it."""


def line_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a JSON lines file; blank lines are skipped.

    Raises:
        DataError: `file:line` of the first line that is not JSON or not UTF-8, or a truncated gzip stream.
    """
    if _is_array_of_rows(path):  # under a .jsonl name
        yield from json_values(path)
        return
    for number, line in _lines(path):
        if not line or line.isspace():
            continue
        try:
            value = _DECODER.decode(line)
        except json.JSONDecodeError as error:
            _refuse(path, number, f"not valid JSON ({error.msg} at column {error.colno}); mend or remove the line")
        except (ValueError, RecursionError) as error:
            _refuse(path, number, f"not usable JSON ({error}); mend or remove the line")
        yield number, value


def _is_array_of_rows(path: Path) -> bool:
    """True for a file that is one array; lines may be arrays, too, each of the turns of a conversation."""
    window = _Window(path)
    if window.peek() != "[":
        return False
    window.expect("[", "`[`")
    opened, following = window.line, window.peek()
    if following != "{":
        return following == "["
    line, first = window.value()
    return line > opened or not {"role", "from"} & first.keys()


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a JSON file: an array, an object that holds one array of objects, or JSON lines.

    Raises:
        DataError: `file:line` of what is not JSON or not UTF-8, or a truncated gzip stream.
    """
    window = _Window(path)
    match window.peek():
        case "":
            return
        case "[":
            yield from _array(window)
            window.expect("", "the end of the file after the array")
        case "{":
            yield from _objects(window)
        case other:
            _refuse(path, window.line, f"starts with {other!r}, needs an array of objects or one object per line")


class _Window:
    """The part of a text that is being decoded; moves forward only and counts lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self._chunks = text_chunks(path)
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is not blank, not consumed; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._move(blank.end() if blank else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow(1):
                return ""

    def expect(self, character: str, meaning: str) -> None:
        """Consume `character`, or refuse the file."""
        found = self.peek()
        if found != character:
            given = repr(found) if found else "the end of the file (was it cut?)"
            _refuse(self.path, self.line, f"found {given}, needs {meaning}; mend the file")
        self._move(self._at + len(character))

    def value(self) -> tuple[int, Any]:
        """Consume one JSON value; its first line and the value."""
        decoded = self.value_within(None)
        assert decoded is not None
        return decoded

    def value_within(self, limit: int | None) -> tuple[int, Any] | None:
        """As `value`, but None, with nothing consumed, for a value of more than `limit` characters."""
        self.peek()
        line = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                left = len(self._text) - self._at
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _CUT_TAIL
                if cut and limit is not None and left > limit:
                    return None
                if cut and left > MAX_VALUE_CHARS:
                    _refuse_length(self.path, line)
                # Doubling keeps the work linear for one value of many megabytes.
                if cut and self._grow(min(left, MAX_VALUE_CHARS - left + 1)):
                    continue
                broken = line + self._text.count("\n", self._at, error.pos)
                _refuse(self.path, broken, f"not valid JSON ({error.msg}); mend the line")
            except (ValueError, RecursionError) as error:
                _refuse(self.path, line, f"not usable JSON ({error}); mend the line")
            self._move(end)
            return line, value

    def _move(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self._at = at

    def _grow(self, wanted: int) -> bool:
        """Read at least `wanted` further characters where there are any; False at the end of the file."""
        parts: list[str] = []
        while wanted > 0 and (chunk := next(self._chunks, "")):
            parts.append(chunk)
            wanted -= len(chunk)
        if not parts:
            return False
        self._text = "".join([self._text[self._at :], *parts])
        self._at = 0
        return True


def _array(window: _Window) -> Iterator[tuple[int, Any]]:
    window.expect("[", "`[`")
    if window.peek() == "]":
        window.expect("]", "`]`")
        return
    while True:
        yield window.value()
        if window.peek() != ",":
            break
        window.expect(",", "`,`")
    window.expect("]", "`,` or `]` after a sample")


def _objects(window: _Window) -> Iterator[tuple[int, Any]]:
    """Rows of a file that starts with `{`: JSON lines, one row, or an object around the array of rows."""
    first = window.value_within(WHOLE_OBJECT_CHARS)
    if first is None:
        yield from _wrapped(window)
    elif not window.peek() and any(_is_rows(key, value) for key, value in first[1].items()):
        yield from _wrapped(_Window(window.path))
    else:
        yield first
        while window.peek():
            yield window.value()


def _is_rows(key: str, value: object) -> bool:
    return key not in ROW_LISTS and isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _wrapped(window: _Window) -> Iterator[tuple[int, Any]]:
    """Rows of the one array of objects inside an object; its other values are skipped."""
    window.expect("{", "`{`")
    rows_key = None
    while True:
        line, key = window.value()
        window.expect(":", "`:` after a key")
        if window.peek() != "[":
            window.value()
        else:
            # An array is streamed in any case: only its first element tells whether it holds the rows.
            for number, value in _array(window):
                if rows_key != key and not isinstance(value, dict):
                    continue
                if rows_key not in (None, key):
                    _refuse(window.path, line, f"holds two arrays, `{rows_key}` and `{key}`; keep the one with samples")
                rows_key = key
                yield number, value
        if window.peek() != ",":
            break
        window.expect(",", "`,`")
    window.expect("}", "`,` or `}`")
    window.expect("", "the end of the file after the object")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # str.splitlines would also split at U+2028 and U+0085, which are ordinary characters inside a JSON string.
    pending: list[str] = []
    number, length = 1, 0
    for chunk in text_chunks(path):
        first, *others = chunk.split("\n")
        pending.append(first)
        length += len(first)
        if length > MAX_VALUE_CHARS:
            _refuse_length(path, number)
        for other in others:
            yield number, "".join(pending)
            pending = [other]
            number, length = number + 1, len(other)
    yield number, "".join(pending)


def text_chunks(path: Path) -> Iterator[str]:
    """The file's text, unpacked, in parts of about a megabyte, without a byte order mark.

    Raises:
        DataError: `file:line` of what is not UTF-8, or a truncated gzip stream.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    for chunk in _byte_chunks(path):
        if (nul := chunk.find(b"\0")) >= 0:
            line += chunk.count(b"\n", 0, nul)
            _refuse(path, line, "holds a NUL byte: damaged, or not UTF-8; save it again as UTF-8")
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            _refuse(path, line, f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8")
        line += chunk.count(b"\n")
        if text:
            yield text


def _byte_chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked; ends with one empty chunk so that the decoder can check the last character."""
    line, read = 1, 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            largest = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * path.stat().st_size)
            chunk = b"-"
            while chunk:
                # Of a damaged stream `read` would lose what it had unpacked before, and with it the line.
                chunk = file.read1(CHUNK_BYTES)
                read += len(chunk)
                if path.suffix == ".gz" and read > largest:
                    _refuse(path, line, f"unpacks to more than {MAX_EXPANSION} times its size; unpack it yourself")
                yield chunk
                line += chunk.count(b"\n")
    except (EOFError, zlib.error):
        _refuse(path, line, "the gzip data is truncated or damaged near here; copy the file again")
    except gzip.BadGzipFile:
        if read:
            _refuse(path, line, "the gzip data is damaged, or followed by something else, near here; copy it again")
        raise DataError(f"{path}: is not gzip data; pack it with gzip or drop the .gz ending") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def _refuse_length(path: Path, line: int) -> NoReturn:
    _refuse(path, line, f"a row of more than {MAX_VALUE_CHARS:,} characters; cut it into several")


def _refuse(path: Path, line: int, message: str) -> NoReturn:
    raise DataError(f"{path}:{line}: {message}") from None
