"""A plan as a picture: memory of each stage against the capacity, the causes of a step's time, the choices that fit."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.planner.estimates import MEMORY_TERMS, TIME_TERMS, MemoryEstimate
from toolkit.planner.plan import Candidate, Plan
from toolkit.report.explain_lines import short_seconds
from toolkit.report.plan_memory import when_and_where
from toolkit.report.readings import Readings, readings, stage_estimates
from toolkit.units import GiB, human_bytes, human_seconds

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:  # the desk half is installed without it
    raise MachineError(f"plots need matplotlib; {INSTALL_TRAINING}") from error

# Okabe and Ito's palette, told apart by most colour-blind readers; greys for what no tensor takes.
COLOURS = {
    "weights_bytes": "#0072B2",
    "gradients_bytes": "#56B4E9",
    "optimizer_bytes": "#009E73",
    "activations_bytes": "#E69F00",
    "logits_bytes": "#D55E00",
    "buffers_bytes": "#CC79A7",
    "fragmentation_bytes": "#BBBBBB",
    "context_bytes": "#777777",
}
ENGINE_COLOURS = {"zero": "#0072B2", "pipeline": "#009E73", "mcore": "#D55E00"}
MARK = "#B00020"

WIDTH = 11.0
"""Inches."""
WIDE = 5.0
"""Slowest over fastest choice from which their axis is logarithmic."""
MOST_LABELS = 20
"""Stages that are all named."""


def picture(plan: Plan, form: str) -> bytes:
    """The picture as `png` or `svg`."""
    found, stages = readings(plan), stage_estimates(plan)
    tall = 1.9 + min(0.26 * len(stages), 5.5) + (0.5 if len(stages) == 1 else 0.0)
    figure = Figure(figsize=(WIDTH, tall + 5.2), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12, hspace=0.04))
    axes: Any = figure.subplot_mosaic([["memory", "memory"], ["time", "choices"]], height_ratios=[tall, 4.2])
    # A model may be called anything, also what matplotlib would read as a formula.
    figure.suptitle(_title(plan), fontsize=11, fontweight="bold", parse_math=False)
    _memory(axes["memory"], plan, stages, found)
    _time(axes["time"], plan, found)
    _choices(axes["choices"], plan, found)
    for one in axes.values():
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "toolkit"}):  # equal plans give equal files
        figure.savefig(drawn, format=form, dpi=120, metadata={"Date": None} if form == "svg" else None)
    return drawn.getvalue()


def _title(plan: Plan) -> str:
    cluster, workload = plan.cluster, plan.workload
    where = f"{plan.model.name} on {plan.world_size:,} x {cluster.device.name}"
    work = f"{workload.method}, {workload.precision_words}, {workload.seq_len:,} tokens"
    return f"{where}: {work}, global batch {workload.global_batch:,}\n{textwrap.fill(plan.strategy.words, 110)}"


def _memory(axes: Any, plan: Plan, stages: Sequence[MemoryEstimate], found: Readings) -> None:
    left = [0.0] * len(stages)
    places = range(len(stages))
    for field, name in MEMORY_TERMS.items():
        sizes = [int(getattr(memory, field)) / GiB for memory in stages]
        if any(sizes):
            axes.barh(
                places,
                sizes,
                left=left,
                height=0.72 if len(stages) <= MOST_LABELS else 1.0,
                color=COLOURS[field],
                label=name,
            )
            left = [before + size for before, size in zip(left, sizes, strict=True)]
    fullest = max(places, key=lambda place: stages[place].total_bytes)
    low, high = found.total.low / GiB, found.total.high / GiB
    axes.plot([low, high], [fullest, fullest], color="black", linewidth=1.2, marker="|", label="nine of ten runs")
    capacity, usable = found.capacity_bytes / GiB, found.usable_bytes / GiB
    axes.axvline(capacity, color=MARK, linewidth=1.6, label=f"capacity, {human_bytes(found.capacity_bytes)}")
    axes.axvline(usable, color=MARK, linewidth=1.0, linestyle="--", label="95% of it")
    axes.set_xlim(0, max(capacity, high, max(left)) * 1.03)
    axes.set_xlabel("GiB per device")
    if len(stages) > 1:
        axes.set_ylabel("pipeline stage")
        axes.set_ylim(len(stages) - 0.4, -0.6)
        step = -(-len(stages) // MOST_LABELS)
        axes.set_yticks([place for place in places if place % step == 0])
    else:
        axes.set_yticks([])
        axes.set_ylim(0.8, -0.8)
    title = f"Memory: {human_bytes(plan.memory.total_bytes)} on the fullest device ({when_and_where(plan)})"
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    below = -0.62 / axes.get_position().height / axes.figure.get_figheight()
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, below), ncols=6, frameon=False)


def _time(axes: Any, plan: Plan, found: Readings) -> None:
    seconds = {name: float(getattr(plan.time, field)) for field, name in TIME_TERMS.items()}
    causes = {name: value for name, value in seconds.items() if value > 0}
    step = plan.time.step_seconds
    axes.barh(list(causes), list(causes.values()), height=0.66, color="#0072B2")
    for place, value in enumerate(causes.values()):
        axes.annotate(
            f"{short_seconds(value)}, {value / step:.0%}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, max(causes.values()) * 1.32)  # room for the figures behind the longest bar
    axes.set_ylim(max(len(causes), 4) - 0.4, -0.6)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("seconds per step that nothing hides")
    rate = f"{found.tokens_per_second_per_gpu:,.0f} tokens/s/GPU, MFU {found.mfu:.0%}"
    axes.set_title(f"Time: {human_seconds(step)} per step\n{rate}", loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.25)


def _choices(axes: Any, plan: Plan, found: Readings) -> None:
    """Step time against memory of all strategies that the plan names."""
    chosen = Candidate(strategy=plan.strategy, memory=plan.memory, time=plan.time)
    for engine, colour in ENGINE_COLOURS.items():
        front = sorted(_point(one) for one in plan.pareto if one.strategy.engine == engine)
        if front:
            axes.plot(*zip(*front, strict=True), color=colour, linewidth=1, marker="o", label=f"{engine}, Pareto front")
        rest = [_point(one) for one in plan.alternatives if one not in plan.pareto and one.strategy.engine == engine]
        if rest:
            axes.scatter(
                *zip(*rest, strict=True), s=34, edgecolor=colour, facecolor="white", label=f"{engine}, next best"
            )
    own = ENGINE_COLOURS[plan.strategy.engine]
    axes.scatter(*_point(chosen), s=190, marker="*", color=own, edgecolor="black", label="chosen", zorder=4)
    axes.axhline(found.capacity_bytes / GiB, color=MARK, linewidth=1.6)
    axes.axhline(found.usable_bytes / GiB, color=MARK, linewidth=1.0, linestyle="--")
    every = [_point(one) for one in (chosen, *plan.pareto, *plan.alternatives)]
    slowest, fastest = max(x for x, _ in every), min(x for x, _ in every)
    if slowest > WIDE * fastest:
        axes.set_xscale("log")
        ticks = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if fastest / 1.3 <= tick <= slowest * 1.3])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlim(fastest / 1.3, slowest * 1.3)
    else:
        axes.set_xlim(fastest * 0.9, slowest * 1.1)
    axes.set_ylim(0, max(found.capacity_bytes / GiB, *(y for _, y in every)) * 1.08)
    axes.set_xlabel("seconds per step")
    axes.set_ylabel("GiB per device")
    axes.set_title(
        "Choices: step time and memory\nof what fits, the best of each kind" if plan.judged > 1 else "This layout",
        loc="left",
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best", framealpha=0.9)


def _point(candidate: Candidate) -> tuple[float, float]:
    return candidate.time.step_seconds, candidate.memory.total_bytes / GiB
