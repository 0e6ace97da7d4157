"""Curves that grow in a notebook while the cell that trains is at work."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from toolkit.errors import MachineError, ToolkitError
from toolkit.report.pictures.training import draw_training
from toolkit.report.runs import Run, load_run

try:
    from IPython.display import DisplayHandle
except ImportError as error:
    raise MachineError(
        "live curves need IPython, which every notebook has; install it: "
        "pip install -c constraints.txt -e '.[notebook]' in the toolkit's own folder"
    ) from error


@contextlib.contextmanager
def live_curves(folder: Path | str, *, every_seconds: float = 2.0) -> Iterator[None]:
    """Draw a run's curves below the cell, anew as often as asked while the block trains it, and once more at its end.

        with live_curves("run"):
            toolkit.launch("run")

    Args:
        folder: of the run.
        every_seconds: between two pictures; one is drawn only where there is a new step.

    Raises:
        ConfigError: not a run folder.
    """
    run = load_run(folder)
    handle = DisplayHandle()
    handle.display(draw_training(run, run.recipe.max_steps))
    ended = threading.Event()
    drawing = threading.Thread(target=_redraw, args=(run, handle, ended, every_seconds), name="curves", daemon=True)
    drawing.start()
    try:
        yield
    finally:
        ended.set()
        drawing.join()


def _redraw(run: Run, handle: DisplayHandle, ended: threading.Event, every_seconds: float) -> None:
    """Until the block has ended, and then once more."""
    seen, last = (0, 0), False
    while not last:
        last = ended.wait(every_seconds)
        written = _size(run.folder.telemetry), _size(run.folder.evaluations)
        if written == seen:
            continue
        seen = written
        with contextlib.suppress(ToolkitError):  # whoever reads the damaged record next is told
            handle.update(draw_training(run, run.recipe.max_steps))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
