"""One JSON line per optimizer step is the truth; progress bar and trackers are views of it. Rank 0 speaks."""

import contextlib
import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import Self

from toolkit.engines.base import Engine, StepResult
from toolkit.run_folder import RunFolder
from toolkit.training.memory import peak_memory


class Tracker(Protocol):
    """Where curves go besides telemetry.jsonl; accelerate's trackers fit."""

    def log(self, values: dict[str, float], step: int | None) -> None:
        """Add the values of one step."""

    def finish(self) -> None:
        """Write what is buffered."""


# Without a terminal the bar is not drawn; this many lines stand in for it.
_PLAIN_LINES = 20


class Telemetry:
    """Records every step of a run into telemetry.jsonl, on rank 0 only; use as a context manager."""

    def __init__(
        self, folder: RunFolder, engine: Engine, *, num_steps: int, trackers: tuple[Tracker, ...] = (), done: int = 0
    ) -> None:
        self._speaks = engine.rank == 0
        self._folder = folder
        self.records = _kept_lines(folder.telemetry, done) if self._speaks else []
        """One per step so far; on rank 0 those before a restart too."""
        self._device = engine.device
        self._num_steps = num_steps
        self._trackers = trackers
        self._console = Console(markup=False, highlight=False)  # messages may hold brackets
        self._file = folder.telemetry.open("a", encoding="utf-8") if self._speaks else None
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("eta"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._speaks or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=num_steps, completed=done, numbers="")
        self.start_clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.finish()

    def start_clock(self) -> None:
        """The next step begins now: what came before (evaluation) is not part of its time."""
        self._last = time.perf_counter()

    def record(self, step: int, result: StepResult, *, learning_rate: float, epoch: float) -> None:
        """Write one step's line; the time since the last one is the step's."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        line: dict[str, Any] = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "clipped_norm": result.clipped_norm,
            "lr": learning_rate,
            "tokens": result.tokens,
            "supervised_tokens": result.supervised_tokens,
            "tokens_per_second": result.tokens / seconds,
            "step_seconds": seconds,
            **peak_memory(self._device),
            "loss_scale": result.loss_scale,
            "skipped": result.skipped,
        }
        self.records.append(line)
        if self._file is not None:
            # An fp16 step that overflowed has no finite norm, and JSON has no name for that.
            self._file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in line.items()}) + "\n")
            self._file.flush()
            for tracker in self._trackers:
                tracker.log({name: float(value) for name, value in line.items() if name != "step"}, step)
            self._show(line)

    def event(self, name: str, *, step: int, **facts: object) -> None:
        """Note what happened beside the steps, in events.jsonl; rank 0 does."""
        if self._speaks:
            self._folder.note(name, step=step, **facts)

    def go_back(self, step: int) -> None:
        """Forget the steps after that one: they are about to be done again."""
        self.records = [record for record in self.records if record["step"] <= step]
        if self._file is not None:
            self._file.close()
            _kept_lines(self._folder.telemetry, step)
            self._file = self._folder.telemetry.open("a", encoding="utf-8")
            self._bar.update(self._task, completed=step)

    def say(self, message: object) -> None:
        """Print on rank 0, above the bar."""
        if self._speaks:
            self._console.print(message)

    def _show(self, line: dict[str, Any]) -> None:
        numbers = (
            f"loss {line['loss']:.4f}  lr {line['lr']:.2e}  norm {line['grad_norm']:.3f}  "
            f"{line['tokens_per_second']:,.0f} tok/s"
        )
        self._bar.update(self._task, completed=line["step"], numbers=numbers)
        if self._bar.disable and (line["step"] % max(self._num_steps // _PLAIN_LINES, 1) == 0 or line["step"] == 1):
            self._console.print(f"step {line['step']}/{self._num_steps}  {numbers}")


def _kept_lines(path: Path, last: int) -> list[dict[str, Any]]:
    """The records of the steps up to and with `last`; the others are removed from the file."""
    if not path.exists():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the line that a kill cut off
            record = json.loads(text)
            if record["step"] <= last:
                kept.append(record)
    partial = path.with_suffix(".jsonl.partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    partial.replace(path)
    return kept
