"""Programs that are asked something, side by side, each with a bound on its time.

They end with the block, and with this process. Not in toolkit/launcher, which starts runs and is for systems with
signals and process groups: a doctor must come to all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from typing_extensions import Self

import toolkit

_MOST_BYTES = 8 * 1024**2
"""Of a program's output: nvidia-smi writes 120 KiB for each GPU."""
_ROOM_BYTES = 1024**2
"""That answers may take."""
_KILLED_SECONDS = 2.0
"""nvidia-smi in the driver of a lost GPU cannot be killed; nobody waits for it."""


class Ended(NamedTuple):
    """How a program ended."""

    status: int | None
    """Exit code; negative: the signal that killed it; None: it could not be started."""
    out: str
    err: str
    seconds: float
    timed_out: bool = False


NOT_STARTED = Ended(None, "", "", 0.0)


class Program:
    """One that runs; `Programs.start` makes it."""

    def __init__(self, command: Sequence[str], folder: Path, *, seconds: float, environment: Mapping[str, str]) -> None:
        self._files = [Path(tempfile.mkdtemp(dir=folder)) / name for name in ("out", "err")]
        self._began = time.monotonic()
        self._deadline = self._began + seconds
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # Not where the user is: what lies there must not become a module of what is asked.
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )

    def wait(self) -> Ended:
        """Its end, or what it said until its time was over."""
        timed_out = False
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = True
            self.kill()
        out, err = (self._text(path) for path in self._files)
        return Ended(self._process.returncode, out, err, time.monotonic() - self._began, timed_out)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it and what it has started."""
        if self.running:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILLED_SECONDS)

    def _text(self, path: Path) -> str:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace")


class Programs:
    """What was started in a `with` block; on leaving it, what still runs is ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        """Of everything that is started."""
        self._started: list[Program] = []
        self.folder: Path | None = None
        """For files that are gone afterwards; None outside the block, and where nothing can be written."""

    def __enter__(self) -> Self:
        # The usual place may be full, which is what a doctor is asked about.
        for place in (None, "/var/tmp", "/dev/shm"):
            with contextlib.suppress(OSError):
                self.folder = Path(tempfile.mkdtemp(prefix="toolkit-doctor-", dir=place))
                (self.folder / "room").write_bytes(b"x" * _ROOM_BYTES)
                return self
            self._forget()
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            program.kill()
        self._forget()

    def _forget(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None

    def start(
        self, command: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None
    ) -> Program | None:
        """Start a program; None where it is not installed or cannot be started.

        Args:
            command: its words.
            seconds: that it may take.
            environment: variables that it has beside this process's.
        """
        if self.folder is None:
            return None
        try:
            program = Program(
                command, self.folder, seconds=seconds, environment={**self.environment, **(environment or {})}
            )
        except (OSError, ValueError):
            return None
        self._started.append(program)
        return program

    def start_python(
        self, module: str, arguments: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None
    ) -> Program | None:
        """Start a module of this toolkit with the Python that runs here."""
        own = {"PYTHONPATH": _module_path(self.environment.get("PYTHONPATH", ""))} | dict(environment or {})
        return self.start([sys.executable, "-m", module, *arguments], seconds=seconds, environment=own)


def ended(program: Program | None) -> Ended:
    """Its end; that of one that was not started."""
    return NOT_STARTED if program is None else program.wait()


def _module_path(given: str) -> str:
    """PYTHONPATH with which another folder's Python finds this toolkit."""
    home = Path(toolkit.__file__).resolve().parents[1]
    if home.name in ("site-packages", "dist-packages"):
        return given  # it is found there; at the front of the path its neighbours would hide the standard library
    # What is relative is so to the folder that the user is in.
    entries = [str(Path(entry).absolute()) for entry in given.split(os.pathsep) if entry]
    return os.pathsep.join([str(home), *entries])
