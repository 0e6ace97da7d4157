"""What does not run and why: the nearest miss of each family, and the change that would lift its constraint."""

from collections.abc import Iterator, Sequence

from toolkit.planner.explain import SILENT_ZERO_0, binding_constraint
from toolkit.planner.judge import Judged, Timed, Verdict
from toolkit.planner.plan import Rejection
from toolkit.planner.request import Request
from toolkit.planner.rules import ENGINES
from toolkit.planner.setup import Setup

MAX_SHOWN = 12

KNOBS = (
    ("micro_batch", 1),
    ("checkpointing", 1),
    ("zero_stage", 1),
    ("offload", 3),
    ("offload_to", 0),
    ("vpp", 2),
    ("tp", 2),
    ("pp", 2),
    ("sp", 2),
    ("cp", 2),
)
"""What may be changed in a candidate, and how much one change of it weighs beside the others."""


def rejections(request: Request, verdict: Verdict, *, chosen: Timed, fits: Sequence[Timed]) -> tuple[Rejection, ...]:
    """The most telling: what is never chosen, then the nearest miss of each family where nothing fits.

    Args:
        request: the question.
        verdict: all candidates.
        chosen: the choice.
        fits: all that fit, with their times.
    """
    told = [*_unsafe(request), *_misses(verdict, chosen=chosen, fits=fits)]
    if len(told) < MAX_SHOWN and request.fixed.given():
        told += [Rejection(strategy=engine, reason=words) for (engine, _), words in verdict.tally.examples.items()]
    return tuple(told[:MAX_SHOWN])


def _unsafe(request: Request) -> Iterator[Rejection]:
    fixed, precision = request.fixed, request.workload.precision
    if request.workload.weights != "fp32" and fixed.zero_stage is None and fixed.engine in (None, "zero"):
        reason = f"never chosen with {precision}: {SILENT_ZERO_0}"
        yield Rejection(strategy="ZeRO-0", reason=reason, knob="zero_stage=1, or precision=fp32")


def _misses(verdict: Verdict, *, chosen: Timed, fits: Sequence[Timed]) -> Iterator[Rejection]:
    """Families in which nothing fits; and the chosen one's: why not a larger micro-batch."""
    with_fits = {one.judged.family for one in fits} - {chosen.judged.family}
    known = ENGINES[chosen.engine].timed
    for judged in sorted(verdict.nearest.values(), key=lambda one: one.overshoot):
        if judged.family in with_fits or (known and not ENGINES[judged.engine].timed):
            continue
        yield Rejection(
            strategy=judged.strategy.words,
            reason=binding_constraint(judged.memory, judged.setup.cluster),
            knob=_knob(judged, fits),
        )


def _knob(missed: Judged, fits: Sequence[Timed]) -> str:
    """The fewest changes that make a candidate fit, the fastest of them: 'micro-batch 1, checkpointing'."""
    best: tuple[int, float] | None = None
    target: Setup | None = None
    was = missed.setup
    for one in fits:
        judged, setup = one.judged, one.judged.setup
        if judged.engine != missed.engine:
            continue
        weight = sum(cost for name, cost in KNOBS if getattr(setup, name) != getattr(was, name))
        if best is None or (weight, one.step_seconds) < best:
            best, target = (weight, one.step_seconds), setup
    if target is None:
        return "none alone; see what would make a plan fit"
    return ", ".join(
        _words(target, name) for name, cost in KNOBS if cost and getattr(target, name) != getattr(was, name)
    )


def _words(setup: Setup, name: str) -> str:
    value = getattr(setup, name)
    match name:
        case "micro_batch":
            return f"micro-batch {value}"
        case "checkpointing":
            return {"none": "no checkpointing", "selective": "selective checkpointing"}.get(value, "checkpointing")
        case "zero_stage":
            return f"ZeRO-{value}"
        case "offload":
            return "no offload" if value == "none" else f"offload {value}"
        case _:
            return f"{name} {value}"
