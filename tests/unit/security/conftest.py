"""A model to tamper with, a network that is not there, and processes that may not take much memory."""

import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ranks.tiny import write_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("untouched") / "llama", num_hidden_layers=1)


@pytest.fixture
def model(untouched: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(untouched, tmp_path / "llama")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Looking up a name or connecting fails the test, also where a library would go on without an answer."""
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> NoReturn:
        tried.append(address)
        raise OSError("there is no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


@pytest.fixture
def in_little_memory() -> Callable[..., str]:
    """Run Python code in a process that may map `max_bytes` at most; gives what it prints."""

    def run(code: str, *arguments: object, max_bytes: int, timeout_s: float = 60) -> str:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))

        done: Any = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            preexec_fn=limit,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return str(done.stdout).strip()

    return run
