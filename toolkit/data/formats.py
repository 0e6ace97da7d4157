"""What a row means: the five row formats, recognised from the first row's columns, as turns or plain text."""

import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from toolkit.data.source import Row
from toolkit.errors import DataError
from toolkit.specs.data import DataFormat, DataSource

Role = Literal["system", "user", "assistant"]

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

# In this order: files with `messages` or `instruction` often carry a flat `prompt` or `text` beside them.
COLUMNS: tuple[tuple[DataFormat, tuple[str, ...]], ...] = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("alpaca", ("instruction", "output")),
    ("prompt_completion", ("prompt", "completion")),
    ("prompt_completion", ("question", "answer")),
    ("prompt_completion", ("prompt", "response")),
    ("prompt_completion", ("query", "response")),
    ("prompt_completion", ("instruction", "response")),
    ("text", ("text",)),
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Role
    content: str


class Conversation(NamedTuple):
    """A sample of turns; every assistant turn is learnt."""

    turns: tuple[Turn, ...]
    where: str


class PlainText(NamedTuple):
    """A sample of running text, learnt as a whole."""

    text: str
    where: str


@dataclass(frozen=True)
class RowReader:
    """Turns rows of one source into samples."""

    format: DataFormat
    """Meaning of a row."""
    columns: tuple[str, ...]
    """The format's columns under which the values stand after renaming."""
    renames: dict[str, str]
    """`DataSource.columns`."""
    input_join: str = "\n\n"
    """Put between alpaca's `instruction` and `input`."""

    def read(self, row: Row) -> Conversation | PlainText:
        """The row's sample; leading assistant turns are dropped, as nothing asked for them.

        Raises:
            DataError: a column is missing or of the wrong type, with file and line.
        """
        values = _renamed(row.values, self.renames)
        missing = [column for column in self.columns if column not in values]
        if missing:
            raise DataError(
                f"{row.where}: no column {_quoted(missing)} ({self.format} row); found {_quoted(row.values)}; "
                "add it or remove the row; a file of another shape is a source of its own"
            )
        match self.format:
            case "text":
                return PlainText(_text(values, self.columns[0], where=row.where), row.where)
            case "messages" | "sharegpt":
                return Conversation(_turns(values[self.columns[0]], self.columns[0], where=row.where), row.where)
            case "alpaca" | "prompt_completion":
                asked, answered = (_text(values, column, where=row.where) for column in self.columns)
                # An export by pandas has null or nothing where a row has no input.
                if self.format == "alpaca" and values.get("input") not in (None, ""):
                    asked = f"{asked}{self.input_join}{_text(values, 'input', where=row.where)}"
                return Conversation((Turn("user", asked), Turn("assistant", answered)), row.where)


def reader_for(first: Row, source: DataSource, *, input_join: str) -> RowReader:
    """Recognise the format of a source from its first row.

    Raises:
        DataError: unknown rename, no format recognised, or the forced format's columns are not there.
    """
    renames = source.columns or {}
    _check_renames(first, renames)
    values = _renamed(first.values, renames)
    for name, columns in COLUMNS:
        if source.format in (None, name) and all(column in values for column in columns):
            return RowReader(name, columns, renames, input_join=input_join)
    known = [f"{name} ({', '.join(columns)})" for name, columns in COLUMNS if source.format in (None, name)]
    wanted = f"format {source.format} needs" if source.format else "no known format; known are"
    raise DataError(
        f"{first.where}: found columns {_quoted(first.values)}; {wanted} {' or '.join(known)}; "
        "rename with `columns`, as in {prompt: question, completion: answer}"
    )


def _check_renames(first: Row, renames: dict[str, str]) -> None:
    ours = {column for _, columns in COLUMNS for column in columns} | {"input"}
    faults = []
    for mine, theirs in renames.items():
        if mine not in ours:
            faults.append(f"`{mine}` is no column of ours{_nearest(mine, sorted(ours))}")
        if theirs not in first.values:
            faults.append(f"the file has no column `{theirs}`{_nearest(theirs, list(first.values))}")
    if faults:
        raise DataError("\n".join(f"{first.where}: `columns`: {fault}" for fault in faults))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`? All: {_quoted(known)}" if close else f"; give one of {_quoted(known)}"


def _renamed(values: dict[str, Any], renames: dict[str, str]) -> dict[str, Any]:
    if not renames:
        return values
    moved = set(renames.values())
    kept = {name: value for name, value in values.items() if name not in moved}
    return kept | {mine: values[theirs] for mine, theirs in renames.items() if theirs in values}


def _text(values: dict[str, Any], column: str, *, where: str) -> str:
    value = values.get(column)
    if not isinstance(value, str):
        given = "null" if value is None else f"{type(value).__name__} ({str(value)[:40]})"
        raise DataError(f"{where}: `{column}` is {given}, needs text; mend or remove the row")
    if bad := _SURROGATE.search(value):
        raise DataError(f"{where}: `{column}` holds half a character (\\u{ord(bad[0]):x}); mend the escape in the row")
    return value


def _turns(value: object, column: str, *, where: str) -> tuple[Turn, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: `{column}` is {type(value).__name__}, needs a list of turns; mend or remove the row")
    turns = [_turn(turn, f"{column}[{index}]", where=where) for index, turn in enumerate(value)]
    start = 0
    while start < len(turns) and turns[start].role == "system":
        start += 1
    first_user = start
    while first_user < len(turns) and turns[first_user].role != "user":
        first_user += 1
    return tuple(turns[:start] + turns[first_user:])


def _turn(value: object, name: str, *, where: str) -> Turn:
    # In Parquet a column has all keys, those of other rows null.
    sharegpt = isinstance(value, dict) and value.get("from") is not None
    keys = ("from", "value") if sharegpt else ("role", "content")
    if not isinstance(value, dict) or any(key not in value for key in keys):
        given = _quoted(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{where}: `{name}` is {given}, needs role and content (or from and value); mend the row")
    role = ROLES.get(value[keys[0]].lower()) if isinstance(value[keys[0]], str) else None
    if role is None:
        raise DataError(f"{where}: `{name}` has role {value[keys[0]]!r}; known roles: {', '.join(ROLES)}")
    return Turn(role, _text({name: value[keys[1]]}, name, where=where))


def _quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
