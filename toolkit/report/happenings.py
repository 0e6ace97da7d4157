"""What happened in a run beside its steps, in words, each at its step: the marks on the time line."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from toolkit.report.record import Record, finite
from toolkit.report.texts import shown
from toolkit.units import human_bytes, human_seconds

Weight = Literal["quiet", "notable", "bad"]

LANES = ("started", "checkpoint", "evaluation", "rate", "skipped", "bad step", "interrupted", "other")
"""Lines of the time line, top to bottom."""

_MOST_LETTERS = 300


class Happening(NamedTuple):
    """One mark."""

    step: int
    """After which it happened; of a step itself, its number."""
    lane: str
    """Of `LANES`."""
    words: str
    """One sentence."""
    weight: Weight
    """Quiet ones are part of every run; notable and bad ones are drawn through the curves."""


def happenings(record: Record) -> tuple[Happening, ...]:
    """All of them, by step; those of one step in the order in which they were written down."""
    return tuple(sorted([*_written(record), *_seen_in_steps(record)], key=lambda one: one.step))


def _written(record: Record) -> Iterator[Happening]:
    """From events.jsonl. A restart has no step: it is where the next start goes on."""
    step = 0
    for event, upcoming in zip(record.events, _next_starts(record), strict=True):
        given = event.get("step") if _is_step(event.get("step")) else upcoming
        step = step if given is None else given
        lane, weight, say = _KINDS.get(str(event.get("event")), ("other", "notable", _other))
        words = _shortened(shown(say(event)))
        yield Happening(step, lane, words, "quiet" if lane == "started" and step == 0 else weight)


def _next_starts(record: Record) -> list[int | None]:
    """For each event, the step of the first start that comes after it."""
    found: list[int | None] = []
    after: int | None = None
    for event in reversed(record.events):
        found.append(after)
        if event.get("event") == "started" and _is_step(event.get("step")):
            after = event["step"]
    return found[::-1]


def _seen_in_steps(record: Record) -> Iterator[Happening]:
    """What telemetry itself shows: updates left out, and losses that are no number."""
    told = [event.get("step") for event in record.events if event.get("event") == "bad step"]
    known = {step for step in told if _is_step(step)}
    for step in record.steps:
        if step.get("skipped"):
            scale = step.get("loss_scale")
            now = f"; the loss scale is now {scale:g}" if scale is not None and scale != 1 else ""
            yield Happening(step["step"], "skipped", f"update left out: gradients overflowed{now}", "notable")
        elif "loss" in step and step["loss"] is None and step["step"] not in known:
            yield Happening(step["step"], "bad step", "the loss is no number", "bad")


def _shortened(words: str) -> str:
    return words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]}…"


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    return str(value) if isinstance(value, str | int | float) else ""


def _started(event: Mapping[str, Any]) -> str:
    step, total = event.get("step"), event.get("num_steps")
    of = f" of {total:,} steps" if isinstance(total, int) else ""
    return f"went on after step {step:,}{of}" if isinstance(step, int) and step else f"started{of}"


def _checkpoint(event: Mapping[str, Any]) -> str:
    size, stall = finite(event.get("num_bytes")), finite(event.get("stall_seconds"))
    written = "" if size is None else f", {human_bytes(size)} of rank 0"
    stood = "" if stall is None else f", training stood still for {human_seconds(stall)}"
    return f"checkpoint{written}{stood}"


def _evaluation(event: Mapping[str, Any]) -> str:
    numbers = {name: finite(event.get(name)) for name in EVALUATED}
    told = [
        f"{EVALUATED[name]} {value:.1%}" if name in _PARTS else f"{EVALUATED[name]} {value:.4g}"
        for name, value in numbers.items()
        if value is not None
    ]
    return f"evaluation: {', '.join(told)}" if told else "evaluation"


def _best(event: Mapping[str, Any]) -> str:
    loss = finite(event.get("held_out_loss"))
    return "best weights, exported" + ("" if loss is None else f": held-out loss {loss:.4f}")


def _rate(event: Mapping[str, Any]) -> str:
    factor = finite(event.get("factor"))
    return "learning rate lowered" + ("" if factor is None else f" to {factor:g} of the schedule's")


def _slow(event: Mapping[str, Any]) -> str:
    rank, share = event.get("rank"), finite(event.get("share"))
    whose = f"rank {rank} on {_text(event, 'host')}" if event.get("section") != "link" else _text(event, "host")
    return f"slow: {whose}, {_text(event, 'section')}" + ("" if share is None else f", {share:.0%} of a step")


def _shares(event: Mapping[str, Any]) -> str:
    counts, gain = event.get("micro_batches"), finite(event.get("gain"))
    dealt = " + ".join(map(str, counts)) if isinstance(counts, list) else ""
    return f"micro-batches in proportion to speed: {dealt}" + ("" if gain is None else f", {gain:.0%} faster expected")


def _split(event: Mapping[str, Any]) -> str:
    stages, gain = event.get("stages"), finite(event.get("gain"))
    layers = ",".join(map(str, stages)) if isinstance(stages, list) else ""
    return f"stages of {layers} layers would be faster" + ("" if gain is None else f", by {gain:.0%}")


def _other(event: Mapping[str, Any]) -> str:
    told = {name: value for name, value in event.items() if name not in ("event", "time", "step")}
    facts = [f"{name} {value}" for name, value in told.items() if isinstance(value, str | int | float)]
    return f"{_text(event, 'event') or 'event'}{': ' if facts else ''}{', '.join(facts)}"


def _with_reason(words: str, name: str = "reason") -> Callable[[Mapping[str, Any]], str]:
    return lambda event: f"{words}: {_text(event, name)}" if _text(event, name) else words


EVALUATED = {
    "held_out_loss": "held-out loss",
    "perplexity": "perplexity",
    "exact_match": "exact match",
    "prompts_match": "prompts right",
}
"""What an evaluation may measure, and its name."""
_PARTS = ("exact_match", "prompts_match")

_KINDS: dict[str, tuple[str, Weight, Callable[[Mapping[str, Any]], str]]] = {
    "started": ("started", "notable", _started),
    "checkpoint": ("checkpoint", "quiet", _checkpoint),
    "evaluation": ("evaluation", "quiet", _evaluation),
    "best weights": ("evaluation", "quiet", _best),
    "rate lowered": ("rate", "notable", _rate),
    "bad step": ("bad step", "bad", _with_reason("bad step")),
    "rolled back": ("bad step", "bad", lambda event: f"went back to step {_text(event, 'step')}"),
    "checkpoint failed": ("interrupted", "bad", _with_reason("checkpoint not written")),
    "best weights lost": ("interrupted", "bad", _with_reason("best weights lost")),
    "restarted": ("interrupted", "bad", _with_reason("interrupted, started again")),
    "preempted": ("interrupted", "bad", _with_reason("asked to leave, saved", "signal")),
    "straggler": ("other", "bad", _slow),
    "straggler over": ("other", "notable", lambda event: f"no longer slow: rank {_text(event, 'rank')}"),
    "shares": ("other", "notable", _shares),
    "stage split": ("other", "notable", _split),
    "checkpoints set aside": ("other", "notable", _with_reason("later checkpoints set aside", "folder")),
    "stopped early": ("interrupted", "notable", lambda event: _text(event, "reason") or "stopped early"),
}
