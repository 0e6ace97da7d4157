"""What a check finds: where, how bad, what happens if it is left, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""error: does not start, or does other than it says. warning: depends on what the file does not tell. note: to know."""
Location = tuple[str | int, ...]
"""Keys and list indices from the top of a file to a value; () is the whole file."""

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Edit:
    """A change of the file that mends one finding and cannot make anything worse."""

    kind: Literal["rename", "remove", "replace", "lapse"]
    """lapse: what is no JSON becomes JSON; the document has its place."""
    text: str = ""
    """rename: the new key. replace: the new value, as JSON."""
    name: str = ""
    """replace: the new key, where it changes too."""


@dataclass(frozen=True)
class Finding:
    """One fault of a file, before it is known on which line it stands."""

    severity: Severity
    rule: str
    """Its name in words with hyphens, as `unknown-key`; the rule's id in SARIF."""
    location: Location
    """Of the key that is at fault; what is missing has its section's."""
    message: str
    """What was given and what was needed."""
    effect: str = ""
    """What happens if it is left."""
    remedy: str = ""
    """What to do."""
    edit: Edit | None = None
    """What `--fix` does about it."""

    @property
    def path(self) -> str:
        """The location in words: `zero_optimization.stage`, `optimizer.params.betas[1]`; empty for the whole file."""
        text = ""
        for part in self.location:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text


@dataclass(frozen=True)
class Placed:
    """A finding with its place."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1."""
    finding: Finding


def in_order(placed: Iterable[Placed]) -> list[Placed]:
    """By file, line, column and severity; the same told twice of one place is told once."""
    unique = dict.fromkeys(placed)
    return sorted(unique, key=lambda one: (one.file, one.line, one.column, _ORDER[one.finding.severity]))
