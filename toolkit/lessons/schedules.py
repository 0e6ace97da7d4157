"""Who does what when in a pipeline: two schedules, and how much of the ranks' time they leave idle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["forward", "backward"]
Action = tuple[Direction, int]
"""What is done to which micro-batch."""


def all_forward_first(stage: int, num_stages: int, num_micro: int) -> list[Action]:
    """GPipe (1811.06965): all micro-batches forward, then all backward."""
    forward: list[Action] = [("forward", i) for i in range(num_micro)]
    return forward + [("backward", i) for i in range(num_micro)]


def one_forward_one_backward(stage: int, num_stages: int, num_micro: int) -> list[Action]:
    """1F1B (2104.04473): as many forward as there are stages behind, then one backward for each forward."""
    ahead = min(num_stages - stage, num_micro)
    actions: list[Action] = [("forward", i) for i in range(ahead)]
    for i in range(num_micro):
        actions.append(("backward", i))
        if ahead + i < num_micro:
            actions.append(("forward", ahead + i))
    return actions


SCHEDULES = {"all forward first": all_forward_first, "1F1B": one_forward_one_backward}


@dataclass(frozen=True)
class Span:
    """One action as it happened."""

    direction: Direction
    micro: int
    """Index of the micro-batch."""
    begin: float
    """Seconds of the clock that all processes share."""
    end: float


def idle_part(timeline: Sequence[Sequence[Span]]) -> float:
    """Of all ranks' time between the first action and the last, the part in which they did nothing: the bubble."""
    busy = sum(span.end - span.begin for spans in timeline for span in spans)
    begin = min(span.begin for spans in timeline for span in spans)
    end = max(span.end for spans in timeline for span in spans)
    return 1 - busy / (len(timeline) * (end - begin))


def predicted_bubble(num_stages: int, num_micro: int) -> float:
    """(p - 1) / (m + p - 1): the last stage waits for p - 1 others before its first micro-batch (2104.04473, 2.2)."""
    return (num_stages - 1) / (num_micro + num_stages - 1)
