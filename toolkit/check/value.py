"""One value against its type and range."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.nearest import nearest
from toolkit.check.schema import Key

_NEEDED = {
    "flag": "true or false",
    "int": "a whole number",
    "number": "a number",
    "text": "text in quotes",
    "numbers": "a list of numbers, as [0.9, 0.95]",
    "texts": "a list of texts",
    "list": "a list",
    "words": "a text or a list of texts",
    "mapping": "an object",
    "section": "an object with keys of its own",
    "never": "to be left out: no file can hold what belongs here",
}
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "0", "1", "t", "f", "y", "n")
"""Texts that pydantic takes for true or false."""
_SHOWN = 60
_TOO_LARGE = 2**63
"""Numbers with point or exponent from here on are no whole ones for pydantic."""


def shown(value: Any) -> str:
    """The value as it stands in a message."""
    words = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    told = words or ("null" if value is None else repr(value).replace("'", '"') if _short(value) else "a long value")
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


def _short(value: Any) -> bool:
    return not isinstance(value, list | dict | str) or len(value) <= _SHOWN


def value_faults(value: Any, key: Key, *, strict: bool, at: Location) -> Iterator[Finding]:
    """What is wrong with a value, nothing where it is left to its default with null.

    Args:
        value: as it stands.
        key: what is known of its key.
        strict: the reader does not convert "4" to 4.
        at: of the key.
    """
    if key.kind == "open" or (value is None and _takes_null(key)):
        return
    if key.kind == "choice":
        given = str(value).upper() if key.converted and not isinstance(value, bool) else value
        if not isinstance(given, str) or given not in key.choices:
            yield _choice(value, key, at)
        return
    if _is(value, key.kind) and not (key.kind == "int" and not strict and abs(value) >= _TOO_LARGE):
        if key.kind in ("int", "number"):
            yield from _range(value, key, at)
        return
    strict = strict and not key.converted
    converted = None if strict else _converted(value, key.kind)
    if converted is None:
        told = f"is {shown(value)}, needs {_NEEDED[key.kind]}"
        edit = _switch(value, key) if key.kind == "section" else _unquoted(value, key.kind, strict=strict)
        remedy = f"write {edit.text if edit else _NEEDED[key.kind]}"
        yield Finding("error", "wrong-type", at, told, _effect(value, key, strict), remedy, edit)
    elif key.kind in ("int", "number"):
        yield from _range(converted, key, at)


def _takes_null(key: Key) -> bool:
    return key.nullable or (key.default is None and key.kind != "section")


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "flag":
            # Python takes 1 and 0 for true and false, wherever they are asked for.
            return isinstance(value, bool) or (_number(value) and value in (0, 1))
        case "list":
            return isinstance(value, list)
        case "mapping":
            return isinstance(value, dict)
        case "words":
            return isinstance(value, str) or _is(value, "texts")
        case "int":
            return _number(value) and math.isfinite(value) and value == int(value)
        case "number":
            return _number(value)
        case "text":
            return isinstance(value, str)
        case "numbers":
            return isinstance(value, list) and all(_number(one) for one in value)
        case "texts":
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return False


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _converted(value: Any, kind: str) -> float | None:
    """What pydantic makes of a value of another type; None where it refuses."""
    if kind == "flag":
        return 1.0 if value in (0, 1) or (isinstance(value, str) and value.lower() in _TRUTHS) else None
    if kind not in ("int", "number") or not isinstance(value, str | bool):
        return None
    try:
        number = float(value)
        return (
            number
            if kind == "number" or str(value).strip().lstrip("+-").isdecimal() or isinstance(value, bool)
            else None
        )
    except ValueError:
        return None


def _range(value: float, key: Key, at: Location) -> Iterator[Finding]:
    low, high = key.low, key.high
    too_low = low is not None and (value <= low if key.above else value < low)
    too_high = high is not None and (value >= high if key.below else value > high)
    if not too_low and not too_high:
        return
    least = "" if low is None else f"above {low:g}" if key.above else f"at least {low:g}"
    most = "" if high is None else f"below {high:g}" if key.below else f"at most {high:g}"
    needed = " and ".join(filter(None, (least, most)))
    told = f"is {shown(value)}, needs to be {needed}"
    yield Finding(
        "error",
        "out-of-range",
        at,
        told,
        "it is refused at start, or counts with a value that makes no sense",
        f"write {needed}",
    )


def _choice(value: Any, key: Key, at: Location) -> Finding:
    known = list({one.lower(): one for one in reversed(key.choices)}.values())[::-1]
    told = f"is {shown(value)}, needs {' or '.join(filter(None, (', '.join(known[:-1]), known[-1])))}"
    close = nearest(value, known) if isinstance(value, str) else None
    remedy = f"write {close}" if close else f"write one of {', '.join(known)}"
    edit = Edit("replace", json.dumps(close)) if close else None
    return Finding("error", "wrong-value", at, told, "it is refused at start, or replaced by the default", remedy, edit)


def _unquoted(value: Any, kind: str, *, strict: bool) -> Edit | None:
    """The value without the quotes that make it text; pydantic takes 5e8 for a whole number."""
    if not isinstance(value, str):
        return None
    bare = value.strip().lower()
    if kind == "flag" and bare in ("true", "false"):
        return Edit("replace", bare)
    digits = r"-?(0|[1-9]\d{0,17})"
    exponent = "" if strict else r"([eE]\+?\d)?"
    pattern = digits + (exponent if kind == "int" else r"(\.\d{1,17})?([eE][-+]?\d{1,2})?")
    numeric = kind in ("int", "number") and re.fullmatch(pattern, bare)
    return Edit("replace", bare) if numeric else None


def _switch(value: Any, key: Key) -> Edit | None:
    """`"bf16": true` as the section that it stands for."""
    if not isinstance(value, bool) or key.section is None or "enabled" not in key.section.keys:
        return None
    return Edit("replace", json.dumps({"enabled": value}))


def _effect(value: Any, key: Key, strict: bool) -> str:
    if not strict or key.kind == "section":
        return "it is refused at start"
    if key.kind == "flag" and isinstance(value, str):
        return "any text, also this one, counts as true" if value else "an empty text counts as false"
    return "nothing checks it here: the run fails later, or counts with it as it stands"
