"""Texts that stand in a run's files, as a console or a page may show them."""

import re

from toolkit.errors import masked

_NO_LETTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """The text without secrets, and without signs that are no letters: a terminal obeys some of them."""
    return _NO_LETTERS.sub("\ufffd", masked(text))
