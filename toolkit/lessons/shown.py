"""Code of the lessons as a notebook shows it: the very functions that run, highlighted."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """Python of one file."""

    path: str
    """Of the file, from the repository on."""
    code: str

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```\n[{self.path}](../{self.path})"

    def __repr__(self) -> str:
        return f"# {self.path}\n{self.code}"


def show(*parts: Callable[..., Any]) -> Source:
    """Functions or classes of one module, as they stand in its file."""
    path = Path(inspect.getfile(parts[0])).relative_to(_REPOSITORY).as_posix()
    return Source(path, "\n\n".join(inspect.getsource(part).rstrip() for part in parts))
