"""Processes that start once and are then sent one lesson after the other: a start takes seconds."""

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from typing_extensions import Self

from toolkit.errors import RankFailed
from toolkit.lessons.wire import Wire
from toolkit.specs.machine import local_sockets

T = TypeVar("T")

_GRACE_SECONDS = 1.0
"""In which a rank that hangs writes down where."""
_ECHO_SECONDS = 0.3
"""After the first fault, in which others are heard."""


@dataclass(frozen=True)
class _Failure:
    """What a rank says before it ends."""

    seconds: float
    """Of the clock that all processes share: the first to fail is the cause, the others lose their peer."""
    text: str
    """Its traceback."""


class RankPool:
    """So many gloo ranks on this machine, over a file instead of a port; they start with the first lesson.

    In a script, make one below `if __name__ == "__main__":`, as for any of Python's process pools.

    Args:
        world_size: number of ranks.
        timeout_s: seconds that one lesson may take.
    """

    def __init__(self, world_size: int, *, timeout_s: float = 60.0) -> None:
        self._world_size, self._timeout_s = world_size, timeout_s
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection[Any, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, lesson: Callable[..., T], /, *, on: int | None = None, **settings: object) -> list[T]:
        """Call `lesson(wire, **settings)` on the first `on` ranks, or on all.

        Args:
            lesson: a function of a module; what it takes and returns is plain numbers and frozen objects of them.
            on: ranks that take part.
            settings: the same for all.

        Returns:
            What each rank returned, in rank order.

        Raises:
            RankFailed: a rank raised, died or hung; the message has its own traceback. The next call starts anew.
        """
        world_size = self._world_size if on is None else on
        if not 1 <= world_size <= self._world_size:
            raise RankFailed(f"a lesson on {world_size} ranks, the pool has {self._world_size}; take 1 to that many")
        if lesson.__module__ == "__main__":
            raise RankFailed(
                f"{lesson.__name__} was defined here, where other processes cannot import it; "
                "write it into a .py file beside the notebook and import it from there"
            )
        self._start()
        results: dict[int, Any] = {}
        try:
            for connection in self._connections[:world_size]:
                connection.send((lesson, world_size, settings))
            fault = self._collect(results, world_size)
        except BaseException:
            self.close()  # ranks that were interrupted would answer the next lesson with this one's result
            raise
        if fault is not None:
            self.close()
            raise RankFailed(f"{fault}\n[{lesson.__name__} on {world_size} ranks]")
        return [results[rank] for rank in range(world_size)]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        if self._processes:
            return
        # Forked from one server that has imported torch: seconds for the first rank, milliseconds for each other.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._folder = tempfile.TemporaryDirectory()
        for rank in range(self._world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_attend,
                args=(theirs, rank, self._world_size, Path(self._folder.name), self._timeout_s),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _collect(self, results: dict[int, Any], world_size: int) -> str | None:
        """Fill in what the ranks return; the fault, if there is one."""
        failures: dict[int, _Failure] = {}
        died: list[int] = []
        deadline = time.monotonic() + self._timeout_s + _GRACE_SECONDS
        while waiting := [rank for rank in range(world_size) if rank not in {*results, *failures, *died}]:
            ready = wait([self._connections[rank] for rank in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for rank in waiting:
                if self._connections[rank] in ready:
                    try:
                        answer = self._connections[rank].recv()
                    except (EOFError, ConnectionError):
                        died.append(rank)
                        continue
                    (failures if isinstance(answer, _Failure) else results)[rank] = answer
            if failures or died:
                # The others lose their peer now, and may be heard before a rank whose death was the cause.
                deadline = min(deadline, time.monotonic() + _ECHO_SECONDS)
        if died:
            return "\n".join(f"rank {rank} {self._end(rank)}:\n{self._last_words(rank)}" for rank in died)
        if failures:
            first = min(failures, key=lambda rank: failures[rank].seconds)
            return f"rank {first} failed:\n{failures[first].text}"
        return "\n".join(f"rank {rank} hung:\n{self._last_words(rank)}" for rank in waiting) or None

    def _end(self, rank: int) -> str:
        self._processes[rank].join(_GRACE_SECONDS)
        return f"died with exit code {self._processes[rank].exitcode}"

    def _last_words(self, rank: int) -> str:
        assert self._folder is not None
        return _errors_of(rank, Path(self._folder.name)).read_text(encoding="utf-8", errors="replace")


def _errors_of(rank: int, folder: Path) -> Path:
    return folder / f"{rank}.errors"


def _attend(connection: "Connection[Any, Any]", rank: int, world_size: int, folder: Path, timeout_s: float) -> None:
    """A rank's whole life: join the group, then do what it is sent until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a notebook reaches all; the pool ends its ranks
    os.environ |= local_sockets()
    # Into a file, which the error of a rank that dies or hangs quotes.
    with _errors_of(rank, folder).open("w", encoding="utf-8") as errors:
        os.dup2(errors.fileno(), 2)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        # Longer than any lesson: a hang is told with its stack, not as a message that did not come.
        timeout=timedelta(seconds=2 * timeout_s + 60),
    )
    while True:
        try:
            lesson, ranks, settings = connection.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(timeout_s)
        wire = Wire(rank, ranks)
        try:
            answer = lesson(wire, **settings)
            wire.settle()
        except BaseException:
            connection.send(_Failure(time.monotonic(), traceback.format_exc()))
            raise
        faulthandler.cancel_dump_traceback_later()
        connection.send(answer)
