"""Runs as PNG files: curves with events drawn through them, one run's or several over each other."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.planner.plan import Plan
from toolkit.report.bar_plots import PLANNED, RUN_COLOURS, draw_fullest_ranks, memory_picture, step_time_picture
from toolkit.report.files import MADE_BY, write_whole
from toolkit.report.readings import readings
from toolkit.report.results import Measured, measured_run
from toolkit.report.runs import Run
from toolkit.report.series import thinned

try:
    from matplotlib.figure import Figure
except ImportError as error:  # the desk half is installed without it
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

_SMOOTHING = 0.9
_MOST_POINTS = 2000
_MOST_EVENTS = 60
"""Lines through a curve, beyond which nothing can be seen for them."""
_FEW_STEPS = 60
"""So many can be told apart as dots."""
_EVENT_COLOURS = {"notable": "#B26A00", "bad": "#C0262D"}


def draw(run: Run) -> list[Path]:
    """Write the pictures of a run into its plots/ and give their paths.

    Raises:
        ConfigError: a file of it was changed so that it says nothing.
        MachineError: no room, or no right to.
    """
    return draw_measured(measured_run(run))


def draw_measured(found: Measured) -> list[Path]:
    """The same of a run that has been read."""
    plots = found.record.run.folder.plots
    remedy = f"the run itself is whole; make room, then: toolkit report {found.record.run.folder.path}"
    pictures: dict[str, Callable[[Measured], Any]] = {}
    if found.record.steps:
        pictures = {"loss.png": _loss, "throughput.png": _throughput}
    pictures |= {"memory.png": memory_picture, "step_time.png": step_time_picture}
    try:
        # Drawn anew: in a folder from somebody else this name may be a link to files of the user's.
        if plots.is_symlink():
            plots.unlink()
        plots.mkdir(exist_ok=True)
    except OSError as error:
        raise MachineError(f"{plots}: cannot be written ({error.strerror}); {remedy}") from None
    for name, make in pictures.items():
        write_whole(plots / name, _png(make(found)), remedy=remedy)
    return [plots / name for name in pictures]


def overlay(runs: Sequence[Measured], path: Path) -> None:
    """Loss, held-out loss, learning rate, throughput and memory of several runs over each other.

    Raises:
        MachineError: the file cannot be written.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes: Any = figure.subplot_mosaic([["loss", "loss"], ["lr", "norm"], ["rate", "memory"]], height_ratios=[1.5, 1, 1])
    for place, run in enumerate(runs):
        colour = RUN_COLOURS[place % len(RUN_COLOURS)]
        steps = run.columns.get("step", [])
        for key, column, smooth in (("loss", "loss", True), ("lr", "lr", False), ("norm", "grad_norm", False)):
            _curve(axes[key], steps, run.columns.get(column), colour=colour, smooth=smooth)
        _curve(axes["rate"], steps, run.columns.get("tokens_per_second"), colour=colour, smooth=True)
        held_out = _evaluated(run)
        axes["loss"].plot(*held_out, color=colour, marker="o", markersize=4, linewidth=1, linestyle=":")
        # A name may be anything, also what matplotlib would read as a formula, or would leave out (_).
        axes["loss"].plot([], [], color=colour, label=f"\u200b{run.record.name}".replace("$", r"\$"))
        _events(axes["loss"], run, colour)
    draw_fullest_ranks(axes["memory"], runs)
    axes["loss"].set_ylabel("loss; dots: held out")
    axes["lr"].set_ylabel("learning rate")
    axes["norm"].set_ylabel("norm before clipping")
    axes["norm"].set_yscale("log")
    axes["rate"].set_ylabel("tokens per second")
    axes["rate"].set_ylim(bottom=0)
    for key in ("loss", "lr", "norm", "rate"):
        axes[key].set_xlabel("optimizer step")
    axes["loss"].legend(fontsize=9)
    _grid(list(axes.values()))
    write_whole(path, _png(figure), remedy="give -o another place")


def _loss(found: Measured) -> Any:
    figure = Figure(figsize=(8, 7.4), layout="constrained")
    axes: Any = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 0.7])
    steps, columns = found.columns["step"], found.columns
    _curve(axes[0], steps, columns.get("loss"), colour="tab:blue", smooth=True, label="loss")
    if (held_out := _evaluated(found))[0]:
        axes[0].plot(*held_out, color="tab:red", marker="o", markersize=4, label="held-out loss")
    axes[0].set_ylabel("loss (nats per supervised token)")
    axes[0].set_ylim(bottom=0)
    _curve(axes[1], steps, columns.get("grad_norm"), colour="tab:orange", label="before clipping", alpha=0.45)
    # A run of an earlier release tells the norm before clipping only.
    _curve(axes[1], steps, columns.get("clipped_norm"), colour="tab:orange", label="after")
    axes[1].set_yscale("log")
    axes[1].set_ylabel("gradient norm")
    _curve(axes[2], steps, columns.get("lr"), colour="tab:gray")
    axes[2].set_ylabel("learning rate")
    axes[2].set_xlabel("optimizer step")
    for one in axes:
        _events(one, found)
    for one in axes[:2]:
        _legend(one)
    axes[0].set_title(_title(found.record.plan), fontsize=10, parse_math=False)
    _grid(axes)
    return figure


def _throughput(found: Measured) -> Any:
    figure = Figure(figsize=(8, 7.4), layout="constrained")
    axes: Any = figure.subplots(3, 1, sharex=True)
    steps, columns = found.columns["step"], found.columns
    planned, fill = readings(found.record.plan), found.record.compared.fill if found.record.compared else 1.0
    rows = (
        ("tokens_per_second", "tokens per second, all ranks", "tab:green", fill * planned.tokens_per_second),
        ("mfu", "MFU", "tab:purple", fill * planned.mfu),
        ("step_seconds", "seconds per step", "tab:blue", planned.step_seconds.predicted),
    )
    for one, (name, label, colour, expected) in zip(axes, rows, strict=True):
        _curve(one, steps, columns.get(name), colour=colour, smooth=True, label="measured")
        one.axhline(expected, color=PLANNED, linestyle=":", label="planned")
        one.set_ylabel(label)
        one.set_ylim(bottom=0)
        _events(one, found)
        _legend(one)
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes[2].set_xlabel("optimizer step")
    axes[0].set_title(_title(found.record.plan), fontsize=10, parse_math=False)
    _grid(axes)
    return figure


def _curve(
    axes: Any,
    steps: Sequence[float | None],
    values: Sequence[float | None] | None,
    *,
    colour: str,
    smooth: bool = False,
    **style: Any,
) -> None:
    """Of very many steps the mean of each stretch, with all values lying in the pale band around it."""
    if values is None:
        return
    x, thin = thinned(steps, _MOST_POINTS).high, thinned(values, _MOST_POINTS)
    y, low, high = ([float("nan") if one is None else one for one in column] for column in thin)
    marker = "." if len(y) < _FEW_STEPS else None
    if len(values) > _MOST_POINTS:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    elif smooth:
        axes.plot(x, y, color=colour, alpha=0.3, linewidth=1)
    drawn = _smooth(thin.mean) if smooth else y
    axes.plot(x, drawn, color=colour, marker=marker, **style)


def _smooth(values: Sequence[float | None]) -> list[float]:
    """Exponential moving average, corrected for its start as Adam's moments are; what is None stays a gap."""
    smoothed, average, count = [], 0.0, 0
    for value in values:
        if value is None:
            smoothed.append(float("nan"))
            continue
        count += 1
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        smoothed.append(average / (1 - _SMOOTHING**count))
    return smoothed


def _events(axes: Any, found: Measured, colour: str | None = None) -> None:
    """Lines where something went wrong or was changed."""
    marks = {(mark.step, mark.weight) for mark in found.happenings if mark.weight != "quiet"}
    for step, weight in sorted(marks)[:_MOST_EVENTS]:
        axes.axvline(step, color=colour or _EVENT_COLOURS[weight], linestyle="--", linewidth=1, alpha=0.8)


def _evaluated(found: Measured) -> tuple[list[int], list[float]]:
    every = [(one["step"], one.get("held_out_loss")) for one in found.record.evaluations]
    kept = [(step, loss) for step, loss in every if loss is not None]
    return [step for step, _ in kept], [loss for _, loss in kept]


def _title(plan: Plan) -> str:
    return f"{plan.model.name} on {plan.world_size:,} x {plan.cluster.device.name}: {plan.strategy.words}"


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)


def _grid(axes: Sequence[Any]) -> None:
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)


def _png(figure: Any) -> bytes:
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # matplotlib's own font has not the letters of every language; the page shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="png", dpi=120, metadata={"Software": MADE_BY})
    return drawn.getvalue()
