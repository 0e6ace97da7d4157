"""What one look at a run has found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["passed", "told", "failed", "left out"]


@dataclass(frozen=True)
class Outcome:
    """Of one check; the same on every rank."""

    name: str
    """What was looked at, in a word or two."""
    state: State
    """`told` is nothing to stop for and worth reading; `left out` says why nothing was looked at."""
    said: str
    """What was found, with its numbers."""
    remedy: str = ""
    """Of a failure: what to do."""

    @property
    def fault(self) -> str:
        """The failure in one line."""
        return f"preflight: {self.name}: {self.said}; {self.remedy}"


def judged(name: str, said: str, *, fault: str | None, remedy: str) -> Outcome:
    """Passed with what was found, or failed with what is wrong.

    Args:
        name: of the check.
        said: where nothing is wrong.
        fault: what is; None where nothing is.
        remedy: what to do about it.
    """
    return Outcome(name, "passed", said) if fault is None else Outcome(name, "failed", fault, remedy)
