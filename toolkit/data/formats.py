"""What a row means: the five row formats, recognised from the first row's columns, as turns or plain text."""

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.data.samples import Conversation, PlainText, Turn, holds, quoted, text_of
from toolkit.data.source import Row
from toolkit.data.turns import read_history, read_turns, unread_keys
from toolkit.errors import DataError
from toolkit.specs.data import DataFormat, DataSource

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
PASSAGES = ("input", "context")
"""Columns of what a question is about; put behind it."""
SYSTEMS = ("system", "system_prompt")
"""Columns of a system text for the whole row."""
TOOLS = ("tools", "functions")
"""Columns of tools that the answers may call; no template here shows them to the model."""
_CONVERSATIONS = ("messages", "sharegpt")


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
    """Put between a question and its passage, as alpaca's `instruction` and `input`."""

    def read(self, row: Row) -> Conversation | PlainText:
        """The row's sample: a passage stands behind its question, a system text before all turns.

        Raises:
            DataError: a column is missing, of the wrong type, or says what no sample can; with file and line.
        """
        values = _renamed(row.values, self.renames)
        missing = [column for column in self.columns if column not in values]
        if missing:
            raise DataError(
                f"{row.where}: no column {quoted(missing)} ({self.format} row); found {quoted(row.values)}; "
                "add it or remove the row; a file of another shape is a source of its own"
            )
        if self.format == "text":
            return PlainText(text_of(values, self.columns[0], where=row.where), row.where, row.begins, row.ends)
        for column in TOOLS:
            if holds(values.get(column)):
                raise DataError(f"{row.where}: has `{column}`; calls of tools cannot be trained, remove the row")
        if self.format in _CONVERSATIONS:
            turns, leading = read_turns(values[self.columns[0]], self.columns[0], where=row.where)
            return Conversation(self._with_system(values, turns, where=row.where), row.where, leading)
        asked, answered = (text_of(values, column, where=row.where) for column in self.columns)
        passage = self._one_of(PASSAGES, values, where=row.where)
        # A column called prompt may hold the passage already.
        if passage and not (self.columns[0] == "prompt" and passage in asked):
            asked = f"{asked}{self.input_join}{passage}"
        history = read_history(values["history"], where=row.where) if holds(values.get("history")) else []
        turns = (*history, Turn("user", asked), Turn("assistant", answered))
        return Conversation(self._with_system(values, turns, where=row.where), row.where)

    def unread(self, row: Row) -> set[str]:
        """Columns, and keys of turns, that hold something of which `read` makes nothing."""
        values = _renamed(row.values, self.renames)
        found = {name for name in values.keys() - self._read_columns if holds(values[name])}
        if self.format in _CONVERSATIONS:
            column = self.columns[0]
            found |= {f"{column}[].{key}" for key in unread_keys(values.get(column))}
        return found

    @cached_property
    def _read_columns(self) -> set[str]:
        match self.format:
            case "text":
                return set(self.columns)
            case "messages" | "sharegpt":
                return {*self.columns, *SYSTEMS}
            case "alpaca" | "prompt_completion":
                return {*self.columns, *self._synonyms(PASSAGES), *self._synonyms(SYSTEMS), "history"}

    def _with_system(self, values: dict[str, Any], turns: tuple[Turn, ...], *, where: str) -> tuple[Turn, ...]:
        system = self._one_of(SYSTEMS, values, where=where)
        if not system:
            return turns
        own = turns[0] if turns and turns[0].role == "system" else None
        if own and own.content != system:
            raise DataError(f"{where}: has a system text of its own and one among its turns; keep one of them")
        return turns if own else (Turn("system", system), *turns)

    def _one_of(self, names: tuple[str, ...], values: dict[str, Any], *, where: str) -> str:
        """The text under one of the names; a column that was renamed so leaves the others unread."""
        # An export by pandas has null or nothing where a row has none.
        found = [name for name in self._synonyms(names) if values.get(name) not in (None, "")]
        texts = {name: text_of(values, name, where=where) for name in found}
        if len(texts) > 1:
            raise DataError(
                f"{where}: has {quoted(texts)}, needs one of them; remove the other, or name the column in `columns`, "
                f"as in {{{names[0]}: {names[1]}}}"
            )
        return next(iter(texts.values()), "")

    def _synonyms(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.renames) or names


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
        f"{first.where}: found columns {quoted(first.values)}; {wanted} {' or '.join(known)}; "
        "rename with `columns`, as in {prompt: question, completion: answer}"
    )


def _check_renames(first: Row, renames: dict[str, str]) -> None:
    ours = {column for _, columns in COLUMNS for column in columns} | {*PASSAGES, *SYSTEMS, "history"}
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
    return f"; did you mean `{close[0]}`? All: {quoted(known)}" if close else f"; give one of {quoted(known)}"


def _renamed(values: dict[str, Any], renames: dict[str, str]) -> dict[str, Any]:
    if not renames:
        return values
    moved = set(renames.values())
    kept = {name: value for name, value in values.items() if name not in moved}
    return kept | {mine: values[theirs] for mine, theirs in renames.items() if theirs in values}
