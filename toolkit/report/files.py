"""Files of a report: written whole or not at all, never through a link, and never over somebody else's."""

import contextlib
from pathlib import Path

from toolkit.errors import ConfigError, MachineError

MADE_BY = "toolkit report"
"""Named as the maker in every page, and in the picture that several runs share."""
_MARKS = (f'name="generator" content="{MADE_BY}"'.encode(), f"Software\0{MADE_BY}".encode())
_TOP = 4096


def refuse_others(path: Path, *, remedy: str) -> None:
    """Refuse a file that a report did not make; one that it did may be replaced.

    Raises:
        ConfigError: the name is taken, or has no folder.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; {remedy}")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; {remedy}")
    if path.is_symlink() or not path.exists():
        return  # a link goes, what it leads to stays
    try:
        with path.open("rb") as file:
            top = file.read(_TOP)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if not any(mark in top for mark in _MARKS):
        raise ConfigError(f"{path}: is there and was not made by `{MADE_BY}`; {remedy}")


def write_whole(path: Path, content: bytes, *, remedy: str) -> None:
    """Write beside the place, then rename.

    Raises:
        MachineError: no room, or no right to; what was there is there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:  # "x" refuses a link instead of writing to where it leads
            file.write(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise MachineError(f"{path}: cannot be written ({error.strerror}); {remedy}") from None
