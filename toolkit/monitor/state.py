"""What a run's files say of it now: steps, ranks, signs of life, what happened."""

import contextlib
import json
import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from toolkit.errors import ConfigError
from toolkit.monitor.followed import Followed, New
from toolkit.run_folder import TRAINING, RunFolder

SECTIONS = ("data", "forward", "backward", "passes", "optimizer", "other")
"""Of a rank's step, where it waits for nobody; `<section>_seconds` in ranks.jsonl."""
_SILENT_SECONDS = 60.0
"""Without a sign of life a run is said to be silent; its watchdog waits for minutes."""
_EVENTS = 100


@dataclass(frozen=True)
class RankState:
    """One rank, over the last few steps."""

    rank: int
    host: str
    stage: int
    phase: str
    """As its last sign of life says; empty where it has left none."""
    step: int
    age: float | None
    """Seconds since its last sign of life; None where nothing is known of it."""
    seconds: Mapping[str, float]
    """Of a step, by section, `step` and `link`."""
    link_bytes: float
    """That a step sends to other hosts."""
    memory_bytes: float
    """Peak: of the allocator on a GPU, of the process on a CPU."""
    micro_batches: int
    """Of a step; 0 where all ranks have as many."""
    slow: str
    """Section in which it is called slow; empty where it is not."""

    @property
    def busy(self) -> float:
        """Seconds of a step in which it waited for nobody."""
        return sum(self.seconds.get(section, 0.0) for section in SECTIONS)

    @property
    def waiting(self) -> float:
        """Seconds of a step for other ranks and the network, and what could not be told apart from it."""
        return max(self.seconds.get("step", 0.0) - self.busy, 0.0)


@dataclass(frozen=True)
class RunState:
    """A run, finished or not."""

    name: str
    life: str
    """training, busy (with something else than steps), silent, finished, not running or not started."""
    now: float
    steps: int
    """Done."""
    num_steps: int | None
    last: Mapping[str, float]
    """Numbers of the last step's line in telemetry.jsonl."""
    tokens: float
    """Trained on by the steps in telemetry.jsonl."""
    ranks: tuple[RankState, ...]
    counts: Mapping[str, int]
    """Of events, by name."""
    events: tuple[Mapping[str, Any], ...]
    """The last of them."""
    checkpoint: int | None
    """Step of the last one that began."""

    @property
    def age(self) -> float | None:
        """Seconds since the last sign of life of the rank that was heard of last; None where none is known."""
        return min((rank.age for rank in self.ranks if rank.age is not None), default=None)


class Watched:
    """A run folder that is looked at again and again.

    Args:
        path: the folder.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, path: Path) -> None:
        folder = RunFolder(path)
        if not folder.plan.is_file():
            raise ConfigError(f"{path}: no run folder; make one with `toolkit plan ... -o {path}`")
        self._path, self._folder = path, folder
        self._telemetry, self._ranks, self._events = map(Followed, (folder.telemetry, folder.ranks, folder.events))
        self._steps = _Steps()
        self._told = _Told()
        self._happened = _Happened()

    def look(self) -> RunState:
        """As it is now."""
        self._steps = self._steps.after(self._telemetry.look())
        self._told = self._told.after(self._ranks.look())
        self._happened = self._happened.after(self._events.look())
        now, signs = time.time(), self._signs()
        numbers = sorted({*range(len(self._told.hosts)), *signs})
        ranks = tuple(self._rank(number, signs.get(number), now) for number in numbers)
        last = self._happened
        return RunState(
            name=self._path.resolve().name,
            life=self._life(ranks, has_signs=bool(signs)),
            now=now,
            steps=int(self._steps.last.get("step", 0)),
            num_steps=last.num_steps,
            last=self._steps.last,
            tokens=self._steps.tokens,
            ranks=ranks,
            counts=dict(last.counts),
            events=tuple(last.events),
            checkpoint=last.checkpoint,
        )

    def _life(self, ranks: tuple[RankState, ...], *, has_signs: bool) -> str:
        if self._folder.finished:
            return "finished"
        if not has_signs:
            return "not running" if self._happened.counts or self._steps.last else "not started"
        youngest = min((rank.age for rank in ranks if rank.age is not None), default=math.inf)
        if youngest > _SILENT_SECONDS:
            return "silent"
        return "training" if any(rank.phase == TRAINING for rank in ranks) else "busy"

    def _signs(self) -> dict[int, dict[str, Any]]:
        """The heartbeats, by rank; of other hosts where the folder is shared."""
        found = {}
        for path in self._folder.heartbeats.glob("rank-*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                sign = json.loads(path.read_text(encoding="utf-8"))
                number = int(path.stem.removeprefix("rank-"))
                found[number] = {
                    "host": str(sign["host"]),
                    "phase": str(sign["phase"]),
                    "step": int(sign["step"]),
                    "time": float(sign["time"]),
                }
        return found

    def _rank(self, rank: int, sign: dict[str, Any] | None, now: float) -> RankState:
        told = self._told
        seconds = {name: told.number(f"{name}_seconds", rank) for name in ("step", *SECTIONS, "link")}
        # What ranks have told the first one is a sign of life, too, of those whose files are on another disk.
        last = max((at for at in (told.time, sign["time"] if sign else None) if at is not None), default=None)
        return RankState(
            rank=rank,
            host=sign["host"] if sign else told.hosts[rank] if rank < len(told.hosts) else "",
            stage=told.stages[rank] if rank < len(told.stages) else 0,
            phase=sign["phase"] if sign else "",
            step=max(sign["step"] if sign else 0, told.step if told.columns else 0),
            age=None if last is None else max(now - last, 0.0),
            seconds=seconds,
            link_bytes=told.number("link_bytes", rank),
            memory_bytes=told.number("memory_bytes", rank),
            micro_batches=int(told.number("micro_batches", rank)),
            slow=self._happened.slow.get(rank, ""),
        )


@dataclass
class _Steps:
    """Of telemetry.jsonl."""

    last: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0

    def after(self, new: New) -> "_Steps":
        known = _Steps() if new.anew else self
        for line in new.lines:
            known.last = {name: float(value) for name, value in line.items() if _is_number(value)}
            known.tokens += known.last.get("tokens", 0.0)
        return known


@dataclass
class _Told:
    """Of ranks.jsonl: the last line, and who the ranks are."""

    hosts: list[str] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    step: int = 0
    time: float | None = None

    def after(self, new: New) -> "_Told":
        known = _Told() if new.anew else self
        for line in new.lines:
            if isinstance(line.get("hosts"), list):
                known.hosts = [str(host) for host in line["hosts"]]
                stages = line.get("stages")
                known.stages = (
                    [int(one) if _is_number(one) else 0 for one in stages] if isinstance(stages, list) else []
                )
            elif _is_number(line.get("step")):
                known.columns = {name: value for name, value in line.items() if isinstance(value, list)}
                known.step, known.time = int(line["step"]), line["time"] if _is_number(line.get("time")) else None
        return known

    def number(self, column: str, rank: int) -> float:
        """0.0 where the file has none."""
        values = self.columns.get(column, [])
        return float(values[rank]) if rank < len(values) and _is_number(values[rank]) else 0.0


@dataclass
class _Happened:
    """Of events.jsonl."""

    counts: Counter[str] = field(default_factory=Counter)
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_EVENTS))
    slow: dict[int, str] = field(default_factory=dict)
    num_steps: int | None = None
    checkpoint: int | None = None

    def after(self, new: New) -> "_Happened":
        known = _Happened() if new.anew else self
        for event in new.lines:
            known.hear(event)
        return known

    def hear(self, event: dict[str, Any]) -> None:
        """One more of them."""
        name, rank, step = event.get("event"), event.get("rank"), event.get("step")
        self.counts[str(name)] += 1
        self.events.append(event)
        if name == "started":
            self.slow = {}
            total = event.get("num_steps")
            self.num_steps = int(total) if _is_number(total) else self.num_steps
        elif name == "checkpoint" and _is_number(step):
            self.checkpoint = int(step)
        elif name == "straggler" and _is_number(rank):
            self.slow[int(rank)] = str(event.get("section", ""))
        elif name == "straggler over" and _is_number(rank):
            self.slow.pop(int(rank), None)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
