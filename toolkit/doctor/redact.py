"""Takes out of a text what names a person, a host or a place, so that it can be shown to strangers."""

import contextlib
import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from toolkit.doctor.machine import Machine
from toolkit.errors import masked

_ORDINARY = {"admin", "docker", "ec2-user", "jovyan", "localhost", "node", "nobody", "root", "runner", "ubuntu", "user",
             "vm"}  # fmt: skip
"""Names that name nobody."""
_SHORTEST_NAME = 3
_SYSTEM_FOLDERS = ("bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var/lib")
_ADDRESS = re.compile(r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_ADDRESS_6 = re.compile(r"(?<![\w:])(?!::1(?![\w:]))(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{0,4}(?:%\w+)?(?![\w:])")
_SERIAL = re.compile(r"\b(?:GPU|MIG)-[0-9a-f]{8}[0-9a-f-]*")
_SECRET = re.compile(
    r"\b(?:hf_|ghp_|gho_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|ASIA|eyJ)[\w.-]{8,}|\b[0-9a-fA-F]{32,}\b|"
    r"(?<=:/)/[^/\s:@]+:[^/\s@]+@"
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_QUOTED = re.compile(r"""(['"`])((?:<path>|~|[A-Za-z]:)?[/\\][^'"`\n]*)\1""")
_PATH = re.compile(r"(?<![\w.~/<>:])(?:~|[A-Za-z]:)?[/\\](?:[\w.+@%~=,:-]+[/\\]?)+")


@dataclass(frozen=True)
class Identity:
    """What names this user and host."""

    users: frozenset[str]
    hosts: frozenset[str]
    folders: tuple[str, ...]
    """Home folders and the current one, the longest first."""

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Of whoever runs this."""
        users = {machine.set(name) for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")} | {machine.home.name}
        with contextlib.suppress(OSError, KeyError, ImportError):
            users.add(getpass.getuser())
        full = {machine.set("HOSTNAME"), machine.set("COMPUTERNAME")}
        with contextlib.suppress(OSError):
            full.add(socket.gethostname())
        hosts = full | {name.partition(".")[0] for name in full}
        folders = {str(machine.home), str(machine.home.resolve()), str(machine.folder), machine.set("HOME")}
        return cls(
            frozenset(name for name in users if _names_someone(name)),
            frozenset(name for name in hosts if _names_someone(name)),
            tuple(sorted((one for one in folders if len(one) > 1), key=len, reverse=True)),
        )


def _names_someone(name: str) -> bool:
    return len(name) >= _SHORTEST_NAME and name.lower() not in _ORDINARY


def redacted(text: str, identity: Identity) -> str:
    """The text without names, addresses, serial numbers, secrets, and paths but those of the system."""
    text = masked(text)
    text = _MAIL.sub("<mail>", _SECRET.sub("<secret>", text))
    for folder in identity.folders:
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "<path>", text)
    # What stands in quotation marks may have spaces in it.
    text = _QUOTED.sub(lambda found: f"{found[1]}{_shown_path(found[2])}{found[1]}", text)
    text = _PATH.sub(lambda found: _shown_path(found[0]), text)
    text = re.sub(r"<path>[/\\][\w.+@%~=,:/\\-]*", lambda found: _tail(found[0]), text)
    text = _ADDRESS_6.sub("<address>", _ADDRESS.sub("<address>", _SERIAL.sub("<serial>", text)))
    for kind, names in (("<host>", identity.hosts), ("<user>", identity.users)):
        for name in sorted(names, key=len, reverse=True):
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", kind, text, flags=re.IGNORECASE)
    return text


def redacted_all(value: Any, identity: Identity) -> Any:
    """The same of every text in lists and mappings; keys stay, unless they are texts of the machine's."""
    if isinstance(value, str):
        return redacted(value, identity)
    if isinstance(value, Mapping):
        return {key: redacted_all(one, identity) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_all(one, identity) for one in value]
    return value


def _shown_path(path: str) -> str:
    first = path.lstrip("/").split("/")[0]
    if path.startswith("/") and (first in _SYSTEM_FOLDERS or len(path.strip("/")) == 0):
        return path
    return _tail(path)


def _tail(path: str) -> str:
    """Of a path, what tells the library and not the place."""
    inside = re.search(r"(?:site|dist)-packages[/\\].*", path)
    return f"<path>/{inside[0]}" if inside else "<path>"
