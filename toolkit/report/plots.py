"""Curves of a run, and of what is to be run, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.report.runs import Run, Step

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:  # the desk half is installed without it
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

_SMOOTHING = 0.9
_FEW_STEPS = 100
"""So many can be told apart as dots."""


def draw(run: Run) -> list[Path]:
    """Write plots/loss.png and plots/throughput.png into the run folder and give their paths."""
    steps, plots = run.steps, run.folder.plots
    paths = [plots / "loss.png", plots / "throughput.png"]
    try:
        # Drawn anew: in a folder from somebody else these names may be links to files of the user's.
        if plots.is_symlink():
            plots.unlink()
        plots.mkdir(exist_ok=True)
        for path in paths:
            path.unlink(missing_ok=True)
        _loss(steps, run.evaluations, paths[0])
        _throughput(run, steps, paths[1])
    except OSError as error:
        raise MachineError(
            f"{plots}: cannot be written ({error.strerror}), the run itself is whole; make room, then: "
            f"toolkit report {run.folder.path}"
        ) from None
    return paths


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
    _grid([axes])
    try:
        path.unlink(missing_ok=True)  # a link would be written through
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); copy the recipe to another folder") from None


def _loss(steps: Sequence[Step], evaluations: Sequence[Step], path: Path) -> None:
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    numbers = [s["step"] for s in steps]
    losses = [s["loss"] for s in steps]
    axes[0].plot(numbers, losses, color="tab:blue", alpha=0.3, label="loss")
    axes[0].plot(numbers, _smooth(losses), color="tab:blue", label="smoothed")
    measured = [(one["step"], one["held_out_loss"]) for one in evaluations if one.get("held_out_loss") is not None]
    if measured:
        axes[0].plot(*zip(*measured, strict=True), color="tab:red", marker="o", markersize=4, label="held-out loss")
    axes[0].set_ylabel("loss (nats per supervised token)")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    axes[1].plot(numbers, [s["grad_norm"] for s in steps], color="tab:orange", alpha=0.4)
    # A run of an earlier release tells the norm before clipping only.
    axes[1].plot(numbers, [s.get("clipped_norm") for s in steps], color="tab:orange", linewidth=1)
    axes[1].set_yscale("log")
    axes[1].set_ylabel("gradient norm\n(pale: before clipping)", color="tab:orange")
    right = axes[1].twinx()
    right.plot(numbers, [s["lr"] for s in steps], color="tab:gray", linestyle="--", label="learning rate")
    right.set_ylabel("learning rate", color="tab:gray")
    axes[1].set_xlabel("optimizer step")
    _grid(axes)
    figure.savefig(path, dpi=120)


def _throughput(run: Run, steps: Sequence[Step], path: Path) -> None:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes: Axes = figure.subplots()
    numbers = [s["step"] for s in steps]
    rates = [s["tokens_per_second"] for s in steps]
    axes.plot(numbers, rates, color="tab:green", alpha=0.3, label="tokens/s")
    axes.plot(numbers, _smooth(rates), color="tab:green", label="smoothed")
    axes.set_ylabel("tokens per second, all ranks")
    axes.set_xlabel("optimizer step")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{run.plan.model.name} on {run.plan.cluster.name}", fontsize=10)
    axes.legend(loc="lower right")
    _grid([axes])
    figure.savefig(path, dpi=120)


def _grid(axes: Sequence[Axes]) -> None:
    for one in axes:
        one.grid(alpha=0.3)


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start as Adam's moments are."""
    smoothed, average = [], 0.0
    for count, value in enumerate(values, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        smoothed.append(average / (1 - _SMOOTHING**count))
    return smoothed
