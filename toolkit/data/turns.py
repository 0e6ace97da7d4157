"""Turns as files have them: who speaks, what is said, whether an answer is learnt, and what cannot be read."""

from typing import Any, NamedTuple

from toolkit.data.samples import Role, Turn, holds, quoted, text_of
from toolkit.errors import DataError

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
LEARNT_KEYS = ("weight", "train", "training", "loss")
"""With 0 or false an answer is not learnt: OpenAI's and Mistral's key, Axolotl's two, ms-swift's."""
TOOL_KEYS = ("tool_calls", "function_call")
"""With something under them a turn calls a tool."""
_READ_KEYS = frozenset({"from", "value", "role", "content", *LEARNT_KEYS})


class Turns(NamedTuple):
    """A conversation, from its first question on."""

    turns: tuple[Turn, ...]
    leading: int
    """Answers that were left out as nothing had asked for them."""


def read_turns(value: object, column: str, *, where: str) -> Turns:
    """The turns of a row; answers before the first question are left out, system texts there stay.

    Raises:
        DataError: no list of turns, an unknown role, no text, or a call of a tool; with file and line.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: `{column}` is {type(value).__name__}, needs a list of turns; mend or remove the row")
    turns = [_turn(turn, f"{column}[{index}]", where=where) for index, turn in enumerate(value)]
    asked = next((index for index, turn in enumerate(turns) if turn.role == "user"), len(turns))
    systems = [turn for turn in turns[:asked] if turn.role == "system"]
    return Turns((*systems, *turns[asked:]), asked - len(systems))


def read_history(value: object, *, where: str) -> list[Turn]:
    """Earlier questions and answers, as pairs of texts.

    Raises:
        DataError: something else; with file and line.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: `history` is {type(value).__name__}, needs a list of [question, answer]")
    turns = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{where}: `history[{index}]` is {str(pair)[:40]}, needs [question, answer]; mend the row")
        name = f"history[{index}]"
        asked, answered = (text_of({name: text}, name, where=where) for text in pair)
        turns += [Turn("user", asked), Turn("assistant", answered)]
    return turns


def unread_keys(value: object) -> set[str]:
    """Keys of the turns that hold something which nobody reads."""
    turns = [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
    return {key for turn in turns for key in turn.keys() - _READ_KEYS if holds(turn[key])}


def _turn(value: object, name: str, *, where: str) -> Turn:
    # In Parquet a column has all keys, those of other rows null.
    sharegpt = isinstance(value, dict) and value.get("from") is not None
    keys = ("from", "value") if sharegpt else ("role", "content")
    if not isinstance(value, dict) or any(key not in value for key in keys):
        given = quoted(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{where}: `{name}` is {given}, needs role and content (or from and value); mend the row")
    role = ROLES.get(value[keys[0]].lower()) if isinstance(value[keys[0]], str) else None
    if role is None:
        raise DataError(f"{where}: `{name}` has role {value[keys[0]]!r}; known roles: {', '.join(ROLES)}")
    for key in TOOL_KEYS:
        if holds(value.get(key)):
            # Its content is empty: without the call the model would learn to say nothing.
            raise DataError(f"{where}: `{name}` has `{key}`; calls of tools cannot be trained, remove the row")
    return Turn(role, text_of({name: value[keys[1]]}, name, where=where), _learnt(value, name, where=where))


def _learnt(turn: dict[str, Any], name: str, *, where: str) -> bool:
    learnt = True
    for key in LEARNT_KEYS:
        value = turn.get(key)
        if value not in (None, 0, 1):
            raise DataError(f"{where}: `{name}` has {key} {value!r}, needs 0 or 1 (false or true); mend the row")
        learnt = learnt and value != 0
    return learnt
