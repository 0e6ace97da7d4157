"""What a row becomes: turns, or running text; and how a value is taken for text."""

import re
from typing import Any, Literal, NamedTuple

from toolkit.errors import DataError

Role = Literal["system", "user", "assistant"]
_SURROGATE = re.compile("[\ud800-\udfff]")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Role
    content: str
    learnt: bool = True
    """False for an answer that only stands before others; says nothing of system and user turns."""


class Conversation(NamedTuple):
    """A sample of turns; every assistant turn is learnt that does not say otherwise."""

    turns: tuple[Turn, ...]
    where: str
    leading: int = 0
    """Answers that were left out, as they stood before the first question."""


class PlainText(NamedTuple):
    """A sample of running text, learnt as a whole."""

    text: str
    where: str
    begins: bool = True
    """False for a part of a text after its first."""
    ends: bool = True
    """False for a part of a text before its last."""


def learnt_answers(sample: Conversation) -> list[int]:
    """Places of the turns that are learnt."""
    return [place for place, turn in enumerate(sample.turns) if turn.role == "assistant" and turn.learnt]


def text_of(values: dict[str, Any], column: str, *, where: str) -> str:
    """The value under `column`.

    Raises:
        DataError: it is no text, or holds half a character; with file and line.
    """
    value = values.get(column)
    if not isinstance(value, str):
        given = "null" if value is None else f"{type(value).__name__} ({str(value)[:40]})"
        raise DataError(f"{where}: `{column}` is {given}, needs text; mend or remove the row")
    if bad := _SURROGATE.search(value):
        raise DataError(f"{where}: `{column}` holds half a character (\\u{ord(bad[0]):x}); mend the escape in the row")
    return value


def holds(value: object) -> bool:
    """False where a row has nothing under a key: Parquet has null there, other exports an empty text or list."""
    return value not in (None, "", [], {}, "[]")


def quoted(names: Any) -> str:
    """The names in a message, each between backticks."""
    return ", ".join(f"`{name}`" for name in names) or "none"
