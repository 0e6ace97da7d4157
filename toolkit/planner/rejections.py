"""What does not run and why: the nearest miss of each family, and the change that would lift its constraint."""

from collections.abc import Iterator, Sequence

from toolkit.planner.explain import SILENT_ZERO_0, Choice, binding_constraint, compared_words
from toolkit.planner.judge import Judged, Timed, Verdict, released
from toolkit.planner.plan import Rejection
from toolkit.planner.request import Request
from toolkit.planner.setup import Setup
from toolkit.units import human_bytes, human_seconds

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


def rejections(request: Request, verdict: Verdict, *, choice: Choice, fits: Sequence[Timed]) -> tuple[Rejection, ...]:
    """The most telling: what this release cannot run yet, then the nearest miss of each family where nothing fits.

    Args:
        request: the question.
        verdict: all candidates.
        choice: what was chosen, and what this release cannot run.
        fits: all that fit, with their times.
    """
    chosen = choice.chosen
    told = [*_unsafe(request), *_later(choice), *_misses(verdict, chosen=chosen, fits=fits)]
    if len(told) < MAX_SHOWN and request.fixed.given():
        told += [Rejection(strategy=engine, reason=words) for (engine, _), words in verdict.tally.examples.items()]
    return tuple(told[:MAX_SHOWN])


def best_of_engines(fits: Sequence[Timed]) -> list[Timed]:
    """The fastest of each engine among those that this release cannot run, fastest first."""
    best: dict[str, Timed] = {}
    for one in fits:
        known = best.get(one.judged.engine)
        if (known is None or one.step_seconds < known.step_seconds) and not released(one.judged):
            best[one.judged.engine] = one
    return sorted(best.values(), key=lambda one: one.step_seconds)


def pin_of(judged: Judged) -> str:
    """What to fix so that a strategy which this release cannot run is planned."""
    return f"engine={judged.engine}"


def _unsafe(request: Request) -> Iterator[Rejection]:
    fixed, precision = request.fixed, request.workload.precision
    if request.workload.weights != "fp32" and fixed.zero_stage is None and fixed.engine in (None, "zero"):
        reason = f"never chosen with {precision}: {SILENT_ZERO_0}"
        yield Rejection(strategy="ZeRO-0", reason=reason, knob="zero_stage=1, or precision=fp32")


def _later(choice: Choice) -> Iterator[Rejection]:
    if not released(choice.chosen.judged):
        return
    for one in choice.later:
        total = human_bytes(one.judged.peak.total)
        takes = f"{human_seconds(one.step_seconds)} per step ({compared_words(one, choice.chosen)}) in {total}"
        yield Rejection(
            strategy=one.judged.strategy.words,
            reason=f"not in this release; would take {takes}",
            knob=f"{pin_of(one.judged)}, to plan it",
        )


def _misses(verdict: Verdict, *, chosen: Timed, fits: Sequence[Timed]) -> Iterator[Rejection]:
    """Families of what could be chosen where nothing fits; and the chosen one's: why not a larger micro-batch."""
    with_fits = {one.judged.family for one in fits} - {chosen.judged.family}
    today = released(chosen.judged)
    for judged in sorted(verdict.nearest.values(), key=lambda one: one.overshoot):
        if judged.family in with_fits or (today and not released(judged)):
            continue
        yield Rejection(
            strategy=judged.strategy.words,
            reason=binding_constraint(judged.memory, judged.setup.cluster),
            knob=_knob(judged, fits),
        )


def _knob(missed: Judged, fits: Sequence[Timed]) -> str:
    """The fewest changes that make a candidate fit, the fastest of them: 'micro-batch 1, checkpointing'."""
    today = released(missed)
    best: tuple[int, float] | None = None
    target: Setup | None = None
    was = missed.setup
    for one in fits:
        judged, setup = one.judged, one.judged.setup
        if judged.engine != missed.engine or (today and not released(judged)):
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
