"""A sign of life per rank, and an end for a rank that gives none: nobody waits for ever in a collective."""

import contextlib
import faulthandler
import json
import os
import socket
import time
from types import TracebackType
from typing import IO

from typing_extensions import Self

from toolkit.run_folder import TRAINING, RunFolder

_SECONDS = 1.0
"""Between two signs; a short step does not pay for a file."""
_PATIENCE = 6.0
"""What is no step may take this many times as long, where nothing else is said."""


class Heartbeat:
    """Writes `heartbeats/rank-N.json`, and winds the watchdog up.

    The watchdog is faulthandler's: a thread of its own that needs no interpreter lock, so it works where Python hangs.
    It writes the stacks of all threads and ends the process.

    Args:
        folder: of the run.
        rank: of this process.
        hang_minutes: without a step.
    """

    def __init__(self, folder: RunFolder, rank: int, *, hang_minutes: float) -> None:
        self._path = folder.heartbeats / f"rank-{rank:05d}.json"
        self._stacks = folder.faults / f"rank-{rank:05d}.txt"
        self._limit = 60 * hang_minutes
        self._last = float("-inf")
        self._file: IO[str] | None = None
        self._step, self._phase = 0, "start"

    @property
    def place(self) -> str:
        """Where the rank is, in words."""
        return f"in phase `{self._phase}`" + (f" after step {self._step}" if self._step else "")

    def __enter__(self) -> Self:
        for path in (self._path, self._stacks):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._stacks.open("w", encoding="utf-8")
        self.phase("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        assert self._file is not None, "entered before"
        self._file.close()
        self._path.unlink(missing_ok=True)
        self._stacks.unlink(missing_ok=True)  # empty: a watchdog that writes lets nobody come here
        for folder in (self._path.parent, self._stacks.parent):
            with contextlib.suppress(OSError):  # the last rank to leave finds it empty
                folder.rmdir()

    def phase(self, name: str, *, patience: float = _PATIENCE) -> None:
        """Something else than steps begins, which may take `patience` times as long as a step."""
        self._sign(name, limit=patience * self._limit)

    def beat(self, step: int) -> None:
        """A step is done."""
        self._step = step
        if time.monotonic() - self._last > min(_SECONDS, self._limit / 10):
            self._sign(TRAINING, limit=self._limit)

    def _sign(self, phase: str, *, limit: float) -> None:
        self._last, self._phase = time.monotonic(), phase
        assert self._file is not None, "used as a context"
        faulthandler.dump_traceback_later(limit, exit=True, file=self._file)
        sign = {"pid": os.getpid(), "host": socket.gethostname(), "phase": phase, "step": self._step}
        draft = self._path.with_suffix(".partial")
        draft.write_text(json.dumps({**sign, "time": time.time()}), encoding="utf-8")
        draft.replace(self._path)
