"""What a rank computes in a step and waits for nobody: in a synchronous step all else takes as long as the slowest."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from toolkit.engines.common.laps import between, moment

_SCHEDULER = Path("/proc/thread-self/schedstat")
_MOST_INTERVALS = 1024
"""Timed in one step: two events in a GPU's stream take some 5 us of the host each time."""


class Busy:
    """Times the forward pass of modules that talk to no other rank, and the optimizer's own update.

    Wall time where nothing is sent, so that a rank which is stopped, starved or waits for a disk is seen too; on a GPU
    between events in its stream. What is left of a step, backward pass and reductions in one, is told apart on a CPU
    only, by the time for which this thread had a processor or waited for one: waiting for other ranks is neither. What
    that leaves out, a process that is stopped or waits for its memory, it is taken to meet as often as in the forward
    pass.

    Args:
        device: what the step runs on.
        alone: modules, none inside another, whose forward pass sends nothing.
        optimizer: torch's, inside whatever the library made of it; None on a rank that has nothing to update.
    """

    def __init__(
        self, device: torch.device, *, alone: Iterable[torch.nn.Module], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._device = device
        self._processor = None if device.type == "cuda" else _Processor()
        self._on = False
        self._open: dict[str, tuple[Any, float]] = {}
        self._intervals: list[tuple[str, Any, Any]] = []
        self._used: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._knows_forward = False
        for module in alone:
            self._knows_forward = True
            module.register_forward_pre_hook(lambda *_: self._enter("forward"))
            module.register_forward_hook(lambda *_: self._leave("forward"))
        if optimizer is not None:
            optimizer.register_step_pre_hook(lambda *_: self._enter("optimizer"))
            optimizer.register_step_post_hook(lambda *_: self._leave("optimizer"))

    def begin(self) -> None:
        """A step begins; what is run outside of one is not timed."""
        self._on, self._intervals, self._used, self._open, self._left_out = True, [], {}, {}, {}
        self._began, self._at = self._clock(), time.perf_counter()

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """A part of the forward pass that no module is."""
        self._enter("forward")
        try:
            yield
        finally:
            self._leave("forward")

    def seconds(self) -> dict[str, float]:
        """Of the step that ends, by part; waits for the device, which a number read from it has done already."""
        self._on = False
        found: dict[str, float] = {}
        for part, before, after in self._intervals:
            found[part] = found.get(part, 0.0) + between(before, after)
        for part, count in self._left_out.items():
            # As long as the timed ones: else a rank with more micro-batches would look faster than it is.
            times = 1 + count / max(sum(part == timed for timed, _, _ in self._intervals), 1)
            found[part], self._used[part] = found.get(part, 0.0) * times, self._used.get(part, 0.0) * times
        if self._processor is not None:
            rest = max(self._clock() - self._began - sum(self._used.values()), 0.0)
            others = time.perf_counter() - self._at - sum(found.values())
            found["backward" if self._knows_forward else "passes"] = min(rest * self._stall(found), max(others, rest))
        return found

    def _stall(self, found: dict[str, float]) -> float:
        """Wall time of the forward pass over what of it the processor accounts for."""
        used = self._used.get("forward", 0.0)
        return max(found["forward"] / used, 1.0) if used > 0 else 1.0

    def _enter(self, part: str) -> None:
        if self._on and len(self._intervals) < _MOST_INTERVALS:
            self._open[part] = (moment(self._device), self._clock())
        elif self._on:
            self._left_out[part] = self._left_out.get(part, 0) + 1

    def _leave(self, part: str) -> None:
        before = self._open.pop(part, None)
        if before is not None:
            self._intervals.append((part, before[0], moment(self._device)))
            self._used[part] = self._used.get(part, 0.0) + self._clock() - before[1]

    def _clock(self) -> float:
        return 0.0 if self._processor is None else self._processor.seconds()


class _Processor:
    """For how long the thread that makes it has run, or could have run and had no processor (proc(5), schedstat)."""

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(_SCHEDULER, os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Of the thread, so far."""
        waited = 0
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                waited = int(os.pread(self._file, 64, 0).split()[1])
        return time.thread_time() + waited / 1e9
