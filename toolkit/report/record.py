"""What a run has left, read once and made fit to draw: finished, interrupted, just begun, or not begun at all."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import ConfigError, SpecError
from toolkit.planner.plan import Plan
from toolkit.report.compare import Compared, compare_run
from toolkit.report.runs import Run, Step, load_run
from toolkit.specs.reading import read_mapping
from toolkit.specs.recipe import Recipe

State = Literal["finished", "stopped early", "not finished", "not started"]


@dataclass(frozen=True)
class Record:
    """One run as the report shows it."""

    name: str
    """The shortest end of its path that no other run of the report has."""
    run: Run
    steps: tuple[Step, ...]
    """By step, each once; numbers that are none (NaN, infinity, a text) are None."""
    evaluations: tuple[Step, ...]
    """Likewise."""
    events: tuple[Step, ...]
    """Lines of events.jsonl in their order."""
    summary: dict[str, Any]
    """Of summary.json; empty where the run has not ended."""
    compared: Compared | None
    """Predicted against measured; None where the measurements do not allow it."""
    notes: tuple[str, ...] = field(default=())
    """What of the run could not be read or compared, one sentence each."""

    @property
    def plan(self) -> Plan:
        """What was planned."""
        return self.run.plan

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""
        return self.run.recipe

    @property
    def state(self) -> State:
        """How far it has come."""
        if self.summary:
            return "stopped early" if self.summary.get("stopped_early") else "finished"
        return "not finished" if self.steps or self.events else "not started"

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the whole run, where something says it."""
        told = [event.get("num_steps") for event in self.events if event.get("event") == "started"]
        counts = [count for count in told if isinstance(count, int) and count > 0]
        if self.state == "finished" and self.steps:
            return int(self.steps[-1]["step"])
        return counts[-1] if counts else self.recipe.max_steps

    @property
    def versions(self) -> dict[str, str]:
        """Releases of the libraries that the run was last trained with."""
        started = [event.get("versions") for event in self.events if event.get("event") == "started"]
        for found in (self.summary.get("versions"), *reversed(started)):
            if isinstance(found, dict):
                return {str(name): release for name, release in found.items() if isinstance(release, str)}
        return {}

    @property
    def ds_config(self) -> dict[str, Any]:
        """DeepSpeed's configuration as it lies there; empty with another engine, or where it cannot be read."""
        try:
            return read_mapping(self.run.folder.ds_config)
        except SpecError:
            return {}


def read_records(folders: Sequence[Path]) -> tuple[Record, ...]:
    """Every run, in the order given.

    Raises:
        ConfigError: not a run folder, a folder given twice, or a file of it was changed so that it says nothing.
    """
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f"{twice[0]} is given twice; give each run once")
    names = distinct_names(folders)
    return tuple(read_record(load_run(folder), name) for folder, name in zip(folders, names, strict=True))


def read_record(run: Run, name: str) -> Record:
    """One run.

    Raises:
        ConfigError: a file of it was changed so that it says nothing.
    """
    notes: list[str] = []
    lines = run.steps if run.folder.telemetry.is_file() else []
    steps = _clean(lines, notes, where="telemetry.jsonl")
    return Record(
        name=name,
        run=run,
        steps=steps,
        evaluations=_clean(run.evaluations, notes, where="evaluations.jsonl"),
        events=_events(run.folder.events, notes),
        summary=run.summary if run.folder.finished else {},
        compared=_compared(run, lines, notes) if steps else None,
        notes=tuple(notes),
    )


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    parts = [folder.parts if folder.name not in ("", "..") else folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _clean(lines: Iterable[Step], notes: list[str], *, where: str) -> tuple[Step, ...]:
    """By step, each once: what was written last counts."""
    found: dict[int, Step] = {}
    without = 0
    for line in lines:
        number = line.get("step")
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53:
            found[number] = {key: finite(value) for key, value in line.items()} | {"step": number}
        else:
            without += 1
    if without:
        notes.append(f"{where}: {without} line(s) without a step number are left out")
    return tuple(found[number] for number in sorted(found))


def finite(value: object) -> float | None:
    """A number that is one, or None; true and false are 1 and 0."""
    if not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _events(path: Path, notes: list[str]) -> tuple[Step, ...]:
    """A kill leaves half a line, and the next start writes on behind it: that line alone is lost."""
    if not path.is_file():
        return ()
    found, lost = [], 0
    for line in filter(str.strip, path.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict):
            found.append(event)
        else:
            lost += 1
    if lost:
        notes.append(f"events.jsonl: {lost} line(s) cannot be read and are left out")
    return tuple(found)


def _compared(run: Run, lines: Sequence[Step], notes: list[str]) -> Compared | None:
    try:
        return compare_run(run, lines)
    except ConfigError as error:
        notes.append(f"not compared with the plan: {error}")
        return None
