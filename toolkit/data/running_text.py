"""Running text of any length: tokenized stretch by stretch, its tokens cut into rows of seq_len.

A text longer than a row goes on in the next one, which begins with the row's last token: so every token but a text's
first is learnt, once, and none is lost. To the model each row is a text of its own, with positions from 0.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, final

STRETCH_CHARS = 1 << 18
"""Characters that are tokenized at once; the tokenizer needs some hundred bytes for each token."""


class Stretch(NamedTuple):
    """A part of a text, in order."""

    text: str
    begins: bool
    ends: bool


def stretches(chunks: Iterable[str], *, limit: int = STRETCH_CHARS) -> Iterator[Stretch]:
    """A text in parts of at most `limit` characters; one empty part of an empty text.

    They end where hardly any tokenizer has a token that reaches over: behind a line, else before a blank.
    """
    begins, rest = True, ""
    for chunk in chunks:
        rest += chunk
        while len(rest) > limit:
            at = _edge(rest, limit)
            yield Stretch(rest[:at], begins, False)
            begins, rest = False, rest[at:]
    yield Stretch(rest, begins, True)


def _edge(text: str, limit: int) -> int:
    at = text.rfind("\n", 0, limit) + 1
    while at and text[at].isspace():  # blanks of several lines are one token
        at = text.rfind("\n", 0, at - 1) + 1
    return at or max(text.rfind(" ", 0, limit), 0) or limit


@final
class OpenText:
    """Rows of one text after the other, whose tokens come in parts."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._rows = 0

    def rows(self, tokens: list[int], *, ends: bool, seq_len: int) -> Iterator[tuple[int, list[int]]]:
        """Number and tokens of each row of the text that can be told by now.

        Args:
            tokens: of its next part.
            ends: True for its last part.
            seq_len: tokens of a row; only the last row has fewer.
        """
        self._tokens += tokens
        start = 0
        while len(self._tokens) - start > seq_len:
            yield self._rows, self._tokens[start : start + seq_len]
            self._rows += 1
            start += max(seq_len - 1, 1)
        del self._tokens[:start]
        if ends:
            yield self._rows, self._tokens
            self._tokens, self._rows = [], 0
