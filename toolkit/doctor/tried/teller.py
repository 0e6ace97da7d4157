"""Writes what a try has found, so that it is there even if the next step ends the process."""

import json
from pathlib import Path
from typing import Any


class Teller:
    """Appends to a file of JSON lines; `toolkit.doctor.told` reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, step: str) -> None:
        """Say what is done next: the one to blame if nothing more is heard."""
        self._write({"begin": step})

    def tell(self, topic: str, value: Any) -> None:
        """Say what was found."""
        self._write({"topic": topic, "value": value})

    def end(self) -> None:
        """Say that all was done."""
        self._write({"end": True})

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def words_of(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
