"""This rank's own time, step by step, until it is told to the others: means over a few steps."""

import time

from toolkit.engines.base import BUSY, StepResult
from toolkit.training.links import Links, Sent

SECTIONS = ("data", *BUSY, "other")
"""Parts of a step in which a rank waits for no other: reading rows, computing, and what the loop does besides."""
WITH_ROWS = ("data", "forward", "backward", "passes")
"""Those of them that take the longer the more micro-batches a rank has."""
_SUMMED = ("step", *SECTIONS)
COLUMNS = (*(f"{name}_seconds" for name in (*_SUMMED, "link")), "link_bytes", "memory_bytes")
"""What a rank tells, in this order: of one step, but for the peak of its memory."""
_WARM_UP = 2
"""Steps at a start that say nothing: memory is taken, kernels are chosen."""


class OwnTime:
    """Laps of a step on this rank.

    Args:
        every_steps: between two tellings.
    """

    def __init__(self, every_steps: int) -> None:
        self._every = every_steps
        self._began = self._last = 0.0
        self._now: dict[str, float] = {}
        self._seen = 0
        self.links: Links | None = None
        """Connections to other hosts, where there are any."""
        self.sents: dict[str, Sent] = {}
        """What was sent to other hosts before the last telling."""
        self.forget()

    def forget(self) -> None:
        """Begin anew, on all ranks together."""
        self._sums, self._count = dict.fromkeys(_SUMMED, 0.0), 0

    def begin(self) -> None:
        """A step begins."""
        self._began = self._last = time.perf_counter()
        self._now = {}

    def lap(self, section: str) -> float:
        """Seconds since the last lap, which went into that section."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._now[section] = seconds
        return seconds

    def end(self, result: StepResult) -> None:
        """The step is done, and all that the loop does besides."""
        self.lap("other")
        self._seen += 1
        if self._seen > _WARM_UP:
            parts = {**self._now, **result.busy_seconds, "step": self._last - self._began}
            self._sums = {name: before + parts.get(name, 0.0) for name, before in self._sums.items()}
            self._count += 1

    @property
    def is_due(self) -> bool:
        """Whether it is time to tell; on all ranks at the same step."""
        return self._count >= self._every

    def tell(self, memory_bytes: float) -> tuple[float, ...]:
        """Means since the last telling, one for each of `COLUMNS`."""
        self.sents = {} if self.links is None else self.links.read()
        waited = max((sent.seconds for sent in self.sents.values()), default=0.0)
        sums = (*self._sums.values(), waited, sum(sent.num_bytes for sent in self.sents.values()))
        means = tuple(value / self._count for value in sums)
        self.forget()
        return (*means, memory_bytes)
