"""The learning rate of a recipe as a PNG file, before it is run."""

from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import INSTALL_TRAINING, MachineError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:  # the desk half is installed without it
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

_FEW_STEPS = 100
"""So many can be told apart as dots."""


def draw_schedule(rates: Sequence[float], path: Path, *, title: str, bounds: tuple[int, float] | None = None) -> None:
    """The learning rate of every step.

    Args:
        rates: one per step; the largest that may be where the run decides.
        path: of the picture.
        title: above it.
        bounds: step from which the run decides, and the lowest rate from there on.

    Raises:
        MachineError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes: Axes = figure.subplots()
    numbers = range(1, len(rates) + 1)
    axes.plot(numbers, rates, color="tab:blue", marker="." if len(rates) < _FEW_STEPS else None)
    if bounds is not None:
        first, lowest = bounds
        label = "anywhere in here, as the run goes"
        axes.fill_between(numbers[first:], lowest, rates[first:], color="tab:blue", alpha=0.2, label=label)
        axes.legend(loc="lower right")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    try:
        path.unlink(missing_ok=True)  # a link would be written through
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); copy the recipe to another folder") from None
