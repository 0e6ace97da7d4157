"""A run that faults happen to, attempt after attempt, until it ends: with what it must end with."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file

import toolkit
from procs import run_ranks
from ranks.runs import finetune
from toolkit.checkpoints.store import Store
from toolkit.planner.plan import Plan
from toolkit.report.runs import Run
from toolkit.run_folder import RunFolder

Kind = Literal[
    "kill a rank", "kill all ranks", "kill at a file", "terminate", "stand still", "truncate", "flip", "delete"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ON_DISK: tuple[Kind, ...] = ("truncate", "flip", "delete")
_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    rank: int
    """That it happens to; the others only lose it."""
    seconds: float
    """After the first step of the attempt."""
    file_event: int
    """How many times the checkpoints have been touched."""


def suffer(folder: Path, fault: Fault | None) -> None:
    """`finetune.py` in this rank, and what happens to it."""
    rank, mine = int(os.environ["RANK"]), os.getpid()
    if fault is not None and fault.kind == "kill at a file" and rank == fault.rank:
        _kill_at_a_file(folder / "checkpoints", fault.file_event)
    everybody = fault is not None and fault.kind in ("kill all ranks", "terminate")
    if fault is not None and (everybody or (rank == fault.rank and fault.kind in ("kill a rank", "stand still"))):
        numbers = {"terminate": signal.SIGTERM, "stand still": signal.SIGSTOP}
        threading.Thread(
            target=_later, args=(folder, fault.seconds, mine, numbers.get(fault.kind, signal.SIGKILL)), daemon=True
        ).start()
    finetune(folder)


def _later(folder: Path, seconds: float, pid: int, number: signal.Signals) -> None:
    """Counted from the first step, as what comes before is the same every time."""
    telemetry = RunFolder(folder).telemetry
    before = telemetry.stat().st_size if telemetry.exists() else 0
    while not telemetry.exists() or telemetry.stat().st_size == before:
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(pid, number)


def _kill_at_a_file(folder: Path, wanted: int) -> None:
    """End this process at the given one of its calls that make, rename or remove a file of the checkpoints."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _FILE_EVENTS and str(folder) in str(arguments[0]) and _writes(event, arguments):
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event != "open" or (isinstance(arguments[1], str) and arguments[1][:1] in "wax")


@dataclass
class Story:
    """What happened to a run."""

    faults: Counter[str] = field(default_factory=Counter)
    """Faults that took place, by kind."""
    lost_steps: list[int] = field(default_factory=list)
    """Steps that had to be done again, per fault that left the disk alone."""


def live_through(folder: Path, chance: random.Random, *, faults: int, kinds: tuple[Kind, ...] = KINDS) -> Story:
    """Start a planned run again and again, each time with another fault; at last without."""
    story, world_size = Story(), Plan.load(RunFolder(folder).plan).world_size
    while sum(story.faults.values()) < faults and not RunFolder(folder).finished:
        fault = Fault(
            chance.choice(kinds), chance.randrange(world_size), chance.uniform(0.0, 1.5), chance.randint(1, 30)
        )
        if fault.kind in ON_DISK:
            story.faults[fault.kind] += damage(Store(folder / "checkpoints"), fault.kind, chance)
            continue
        try:
            run_ranks(suffer, world_size, folder, fault, timeout_s=60)
        except AssertionError:
            story.faults[fault.kind] += 1
            story.lost_steps.append(steps_of(folder) - max(Store(folder / "checkpoints").steps(), default=0))
    if not RunFolder(folder).finished:
        run_ranks(suffer, world_size, folder, None, timeout_s=120)
    return story


def damage(store: Store, kind: Kind, chance: random.Random) -> bool:
    """Spoil a file of the newest checkpoint, if there is an older one to go back to."""
    steps = store.steps()
    if len(steps) < 2:
        return False
    path = chance.choice(sorted(store.folder(steps[0]).iterdir()))
    content = bytearray(path.read_bytes())
    match kind:
        case "truncate":
            path.write_bytes(content[: chance.randrange(len(content))])
        case "flip":
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
        case _:
            path.unlink()
    return True


def steps_of(folder: Path) -> int:
    """Steps that the telemetry tells of."""
    telemetry = RunFolder(folder).telemetry
    return len(toolkit.load_run(folder).steps) if telemetry.exists() else 0


def differences(one: Run, other: Run) -> list[str]:
    """Where two finished runs are not the same, bit for bit."""
    found = []
    for name in ("step", "loss", "grad_norm", "lr", "tokens"):
        ours, theirs = ([step[name] for step in run.steps] for run in (one, other))
        if ours != theirs:
            first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
            found.append(f"{name} from step {first + 1}: {ours[first : first + 2]} and {theirs[first : first + 2]}")
    for name in ("held_out_loss_before", "held_out_loss_after"):
        if one.summary[name] != other.summary[name]:
            found.append(f"{name}: {one.summary[name]} and {other.summary[name]}")
    ours, theirs = (load_file(run.export / "model.safetensors") for run in (one, other))
    found += [f"weights of {name}" for name, weight in theirs.items() if not bool((ours[name] == weight).all())]
    return found
