"""Predicted against measured: step time, throughput and peak memory of runs that have trained."""

import json
import statistics
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.report.compare_inputs import STEP_NUMBERS, memory_by_rank, need_above_0
from toolkit.report.readings import Reading, readings
from toolkit.report.runs import Run, Step, load_run

MAX_WARM_UP = 5
"""Steps at the start that are left out: kernels are chosen, caches and allocator fill; of a short run a third."""


class Quantity(NamedTuple):
    """One number, as predicted and as measured."""

    name: str
    unit: str
    """bytes, seconds or tokens/s."""
    predicted: Reading
    measured: float

    @property
    def ratio(self) -> float:
        """Predicted over measured: above 1 the plan expected more."""
        return self.predicted.predicted / self.measured

    @property
    def inside(self) -> bool:
        """True where the measurement lies in the band that should hold nine of ten."""
        return self.predicted.low <= self.measured <= self.predicted.high


class Compared(NamedTuple):
    """One run."""

    run: Path
    plan: Plan
    steps: int
    """Optimizer steps that are counted."""
    warm_up: int
    """Steps before them."""
    fill: float
    """Real tokens over full sequences: what padding leaves of the planned work."""
    quantities: tuple[Quantity, ...]
    """The first one is the step time."""
    worst_rank: int
    """The rank whose memory is compared: of all that were recorded, the one with the highest peak."""
    num_ranks: int
    """Ranks whose memory was recorded."""
    measured_place: int = 1
    """1 for the fastest of all runs compared."""
    predicted_place: int = 1
    """The same by the plans."""

    @property
    def step(self) -> Quantity:
        """The step time."""
        return self.quantities[0]


def compare_runs(folders: Sequence[Path]) -> tuple[Compared, ...]:
    """Every run with its places, the fastest measured first.

    Raises:
        ConfigError: not a run folder, nothing has trained there, its records are damaged, or a folder is given twice.
    """
    if twice := [str(one) for one in folders if folders.count(one) > 1]:
        raise ConfigError(f"{twice[0]} is given twice; give each run once")
    found = [compare_run(load_run(folder)) for folder in folders]
    by_plan = sorted(range(len(found)), key=lambda place: found[place].step.predicted.predicted)
    by_clock = sorted(range(len(found)), key=lambda place: found[place].step.measured)
    return tuple(
        found[place]._replace(measured_place=number, predicted_place=by_plan.index(place) + 1)
        for number, place in enumerate(by_clock, start=1)
    )


def pairs_in_order(runs: Sequence[Compared]) -> tuple[int, int]:
    """Pairs of runs that the plans put in the measured order, and all pairs that the plans tell apart."""
    agree = [
        (one.step.measured < other.step.measured) == (one.step.predicted.predicted < other.step.predicted.predicted)
        for one, other in combinations(runs, 2)
        if one.step.predicted != other.step.predicted
    ]
    return sum(agree), len(agree)


def comparison_json(runs: Sequence[Compared]) -> str:
    """What `--compare --json` prints."""
    agree, pairs = pairs_in_order(runs)
    told = {"runs": [_json(one) for one in runs], "pairs": pairs, "pairs_in_order": agree}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _json(one: Compared) -> dict[str, Any]:
    quantities = {
        quantity.name: {
            "unit": quantity.unit,
            **quantity.predicted._asdict(),
            "measured": quantity.measured,
            "ratio": quantity.ratio,
            "inside": quantity.inside,
        }
        for quantity in one.quantities
    }
    return {
        "run": str(one.run),
        "strategy": one.plan.strategy.model_dump(mode="json"),
        "steps": one.steps,
        "warm_up_steps": one.warm_up,
        "fill": one.fill,
        "quantities": quantities,
        "worst_rank": one.worst_rank,
        "ranks_recorded": one.num_ranks,
        "measured_place": one.measured_place,
        "predicted_place": one.predicted_place,
    }


def compare_run(run: Run, every: Sequence[Step] | None = None) -> Compared:
    """One run.

    Args:
        run: which has trained.
        every: its steps, where they have been read already.

    Raises:
        ConfigError: nothing has trained there, or its records are damaged.
    """
    plan, telemetry = run.plan, run.folder.telemetry
    every = run.steps if every is None else every
    if not every:
        raise ConfigError(f"{telemetry}: holds no steps; train the run first: toolkit launch {run.folder.path}")
    for number, step in enumerate(every, start=1):
        need_above_0(step, STEP_NUMBERS, f"{telemetry}: step {number}")
    warm_up = min(MAX_WARM_UP, len(every) // 3)
    steps, found = every[warm_up:], readings(plan)
    seconds = statistics.median(step["step_seconds"] for step in steps)
    rate = statistics.median(step["tokens_per_second"] for step in steps) / plan.world_size
    fill = statistics.mean(step["tokens"] for step in steps) / plan.tokens_per_step
    ranks = memory_by_rank(run, every)
    memory, worst = _memory(plan, ranks)
    predicted = _throughput(found.step_seconds, tokens=fill * plan.tokens_per_step / plan.world_size)
    return Compared(
        run=run.folder.path,
        plan=plan,
        steps=len(steps),
        warm_up=warm_up,
        fill=fill,
        quantities=(
            Quantity("step_seconds", "seconds", found.step_seconds, seconds),
            Quantity("tokens_per_second_per_gpu", "tokens/s", predicted, rate),
            *memory,
        ),
        worst_rank=worst,
        num_ranks=len(ranks),
    )


def _throughput(step: Reading, *, tokens: float) -> Reading:
    """Tokens per second of a rank that has so many real ones in a step."""
    return Reading(tokens / step.predicted, tokens / step.high, tokens / step.low)


def _memory(plan: Plan, ranks: Sequence[dict[str, int]]) -> tuple[list[Quantity], int]:
    """Allocated and reserved peaks of a GPU; of a CPU process how far it grew from before it had a model."""
    quantities = list(_peaks(plan, ranks))
    key = "peak_reserved_bytes" if "peak_reserved_bytes" in ranks[0] else "peak_rss_bytes"
    return quantities, max(ranks, key=lambda rank: _grown(rank, key))["rank"]


def _peaks(plan: Plan, ranks: Sequence[dict[str, int]]) -> Iterator[Quantity]:
    found, first = readings(plan), ranks[0]
    if "peak_allocated_bytes" in first:
        for name, reading in (("allocated", found.allocated), ("reserved", found.reserved)):
            measured = max(rank[f"peak_{name}_bytes"] for rank in ranks)
            yield Quantity(f"{name}_bytes", "bytes", reading, measured)
    elif "rss_at_start_bytes" in first:
        # What the allocator holds of a GPU is, without one, what the process has more than before.
        grown = max(_grown(rank, "peak_rss_bytes") for rank in ranks)
        yield Quantity("resident_growth_bytes", "bytes", found.reserved, grown)
    elif "peak_rss_bytes" in first:
        measured = max(rank["peak_rss_bytes"] for rank in ranks)
        yield Quantity("resident_bytes", "bytes", found.total, measured)


def _grown(rank: dict[str, int], key: str) -> int:
    before = rank.get("rss_at_start_bytes", 0) if key == "peak_rss_bytes" else 0
    return max(1, rank.get(key, 0) - before)
