"""Why an engine cannot run a set-up."""

from typing import Literal, NamedTuple

Kind = Literal["not of the engine", "engine rule", "heads", "layers", "sequence", "batch"]
"""What is at fault: the engine lacks it altogether, combines it in other ways only, or it does not divide."""


class Fault(NamedTuple):
    """Why an engine cannot run a set-up."""

    kind: Kind
    words: str
    """What was given, what is needed, and values that work."""


def rule(words: str) -> Fault:
    """The engine combines it in other ways only."""
    return Fault("engine rule", words)


def lacks(words: str) -> Fault:
    """The engine has no such thing, whatever the value."""
    return Fault("not of the engine", words)
