"""What a try has told before it ended, and why it ended."""

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.doctor.programs import Ended

_SIGNALS = {"SIGILL": "the processor lacks an instruction that the library was built with"}


class Told(NamedTuple):
    """What is known of a try."""

    answers: dict[str, Any]
    """Topic -> what was found."""
    step: str
    """What it was doing when it was last heard of."""
    end: str | None
    """Why it did not come to its end; None where it did."""

    def section(self, topic: str) -> dict[str, Any]:
        """The mapping told of a topic; empty where there is none."""
        found = self.answers.get(topic)
        return found if isinstance(found, dict) else {}


NOTHING = Told({}, "", "it was not started")


def read_told(path: Path, ended: Ended) -> Told:
    """The lines of a try's file, with how its process ended."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_told(text, ended)


def parse_told(text: str, ended: Ended) -> Told:
    """The same of the file's text; its last line may be cut short."""
    answers: dict[str, Any] = {}
    step, whole = "", False
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        if "topic" in said:
            answers[str(said["topic"])] = said.get("value")
        step = str(said.get("begin", step))
        whole = whole or bool(said.get("end"))
    return Told(answers, step, None if whole else _why(ended))


def _why(ended: Ended) -> str:
    if ended.timed_out:
        return f"it had not ended after {ended.seconds:.0f} s"
    if ended.status is None:
        return NOTHING.end or ""
    if ended.status < 0:
        try:
            name = signal.Signals(-ended.status).name
        except ValueError:
            name = f"signal {-ended.status}"
        return f"{name}: {_SIGNALS[name]}" if name in _SIGNALS else f"it was ended by {name}"
    last = next((line for line in reversed(ended.err.splitlines()) if line.strip()), "")
    return f"exit code {ended.status}{': ' if last else ''}{last.strip()}"
