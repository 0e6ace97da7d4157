"""What a probe hands back: facts, and findings with what happens if they are left."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.check.finding import Severity

Can = Literal["yes", "no", "untried"]

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    """error: training does not start here. warning: part of it does not, or it is slow or wrong. note: to know."""
    rule: str
    """Its name in words with hyphens, as `no-compiler`; it stays the same over releases."""
    message: str
    """What was found and what was needed."""
    effect: str
    """What happens if it is left."""
    remedy: str = ""
    """What to do, where no one command does it."""
    command: str = ""
    """What to type."""


@dataclass(frozen=True)
class Section:
    """What one probe found."""

    name: str
    """As `gpus`; the key of its facts in JSON."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers in bytes and seconds, lists and texts, as JSON has them."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Capability:
    """Something that a user may want to do here."""

    name: str
    can: Can
    """untried: nothing speaks against it, and nothing has shown it."""
    why: str


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first; each once."""
    return sorted(dict.fromkeys(findings), key=lambda one: _ORDER[one.severity])
