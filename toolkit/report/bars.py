"""What a run was predicted to take and what it took, as parts of bars: memory by rank, seconds of a step by cause."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from toolkit.errors import ConfigError
from toolkit.planner.estimates import MEMORY_TERMS, TIME_TERMS
from toolkit.report.compare_inputs import memory_by_rank
from toolkit.report.readings import readings, stage_estimates
from toolkit.report.results import Measured
from toolkit.report.series import OTHER, PHASES

MOST_RANKS = 12
"""Ranks that each have a bar; of more, the fullest have, and the emptiest."""


class Part(NamedTuple):
    """A piece of a bar."""

    name: str
    """What it is."""
    value: float
    """Bytes or seconds."""
    kind: str
    """Parts of one kind have one colour: weights, gradients, optimizer, activations, ..."""


class Bar(NamedTuple):
    """One bar."""

    label: str
    """In front of it."""
    parts: tuple[Part, ...]
    """From left to right; they sum to its length."""
    measured: bool
    """Or else predicted."""

    @property
    def length(self) -> float:
        """Bytes or seconds."""
        return sum(part.value for part in self.parts)


_MEMORY_KINDS = {
    "weights_bytes": "weights",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer",
    "activations_bytes": "activations",
    "logits_bytes": "logits",
    "buffers_bytes": "exchange",
    "fragmentation_bytes": "idle",
    "context_bytes": "context",
}
_TIME_KINDS = {
    "compute_seconds": "weights",
    "recompute_seconds": "gradients",
    "tp_seconds": "exchange",
    "cp_seconds": "exchange",
    "pp_seconds": "exchange",
    "bubble_seconds": "idle",
    "dp_seconds": "exchange",
    "optimizer_seconds": "optimizer",
    "offload_seconds": "logits",
    "overhead_seconds": "context",
}
_PHASE_KINDS = {
    "data_seconds": "activations",
    "forward_seconds": "weights",
    "backward_seconds": "gradients",
    "passes_seconds": "weights",
    "pipeline_seconds": "weights",
    "exchange_seconds": "exchange",
    "optimizer_seconds": "optimizer",
    "waiting_seconds": "idle",
    OTHER: "context",
}


def memory_bars(found: Measured) -> tuple[Bar, ...]:
    """Predicted, one per pipeline stage; then measured, one per rank that was recorded."""
    stages = stage_estimates(found.record.plan)
    names = [f"planned, stage {one.stage}" if len(stages) > 1 else "planned" for one in stages]
    planned = [
        Bar(name, _parts(one, MEMORY_TERMS, _MEMORY_KINDS), measured=False)
        for name, one in zip(names, stages, strict=True)
    ]
    return (*planned, *_rank_bars(found))


def unshown_ranks(found: Measured) -> int:
    """Ranks that were recorded and have no bar."""
    return max(len(_ranks(found)) - MOST_RANKS, 0)


def time_bars(found: Measured) -> tuple[Bar, ...]:
    """Predicted by cause; then, where telemetry tells, the median of each part of a step."""
    plan, typical = found.record.plan, found.typical
    bars = [Bar("planned", _parts(plan.time, TIME_TERMS, _TIME_KINDS), measured=False)]
    names = PHASES | {OTHER: "other"}
    parts = tuple(Part(names[key], typical[key], kind) for key, kind in _PHASE_KINDS.items() if typical.get(key))
    if parts:
        bars.append(Bar("measured", parts, measured=True))
    elif "step_seconds" in typical:
        bars.append(Bar("measured", (Part("whole step", typical["step_seconds"], "context"),), measured=True))
    return tuple(bars)


def memory_limit(found: Measured) -> tuple[float, float]:
    """Memory of one device, and what a plan may use of it."""
    plan = readings(found.record.plan)
    return plan.capacity_bytes, plan.usable_bytes


def _parts(estimate: object, terms: Mapping[str, str], kinds: Mapping[str, str]) -> tuple[Part, ...]:
    sizes = {field: float(getattr(estimate, field)) for field in terms}
    return tuple(Part(terms[field], size, kinds[field]) for field, size in sizes.items() if size > 0)


def _rank_bars(found: Measured) -> Iterator[Bar]:
    ranks = _ranks(found)
    if len(ranks) > MOST_RANKS:
        by_size = sorted(ranks, key=lambda rank: -sum(part.value for part in _rank_parts(rank)))
        ranks = [*by_size[: MOST_RANKS - 1], by_size[-1]]
    for rank in ranks:
        yield Bar(f"measured, rank {rank['rank']}", _rank_parts(rank), measured=True)


def _ranks(found: Measured) -> list[dict[str, Any]]:
    if not found.record.steps:
        return []
    try:
        return list(memory_by_rank(found.record.run, found.record.steps))
    except ConfigError:
        return []


def _rank_parts(rank: Mapping[str, Any]) -> tuple[Part, ...]:
    """Of a GPU what the allocator gave and held; of a process what it had before the model, and has grown by."""
    if "peak_allocated_bytes" in rank:
        allocated, reserved = float(rank["peak_allocated_bytes"]), float(rank["peak_reserved_bytes"])
        parts = (Part("allocated", allocated, "measured"), Part("reserved beside it", reserved - allocated, "idle"))
    else:
        resident, before = float(rank.get("peak_rss_bytes", 0)), float(rank.get("rss_at_start_bytes", 0))
        grown = "grown since" if before else "resident"
        parts = (Part(grown, resident - before, "measured"), Part("before the model was built", before, "context"))
    return tuple(part for part in parts if part.value > 0)
