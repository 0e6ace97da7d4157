"""Where the probes look, so that a test can show them another machine."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from toolkit.errors import MachineError

_MOST_BYTES = 4 * 1024**2
"""Of a file that is read: none of the system's own is larger."""


@dataclass(frozen=True)
class Machine:
    """A system's files and the environment of its user."""

    root: Path
    """Where proc/, sys/ and dev/ are."""
    environment: Mapping[str, str]
    folder: Path
    """The current folder: a run started here has it on its module path."""
    home: Path
    system: str
    """As `sys.platform`: linux, darwin, win32."""

    @classmethod
    def here(cls) -> Self:
        """This one.

        Raises:
            MachineError: the current folder is gone.
        """
        try:
            folder = Path.cwd()
        except OSError:
            raise MachineError("the current folder has been removed; change into another one") from None
        try:
            home = Path.home()
        except RuntimeError:  # a user without an entry, as containers have them
            home = folder
        return cls(Path("/"), dict(os.environ), folder, home, sys.platform)

    def read(self, name: str) -> str | None:
        """Text of a file below the root, as proc/meminfo; None where it is not there or may not be read."""
        try:
            with (self.root / name).open(encoding="utf-8", errors="replace") as file:
                return file.read(_MOST_BYTES)
        except (OSError, ValueError):
            return None

    def set(self, name: str) -> str:
        """An environment variable, empty where it is not set."""
        return self.environment.get(name, "").strip()

    def shown(self, name: str) -> str:
        """A variable's value where it is a word or number, else only that it is set: others may be anything."""
        value = self.set(name)
        return f"{name} is {value!r}" if re.fullmatch(r"[\w.,:^=-]{0,24}", value) else f"{name} is set"

    def is_on(self, name: str) -> bool:
        """Whether a variable says yes, as accelerate and huggingface_hub understand it."""
        return self.set(name).lower() in ("1", "on", "t", "true", "y", "yes")
