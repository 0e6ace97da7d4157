"""What a pipeline adds to a step: tensors from stage to stage, and waiting for other stages."""

from collections.abc import Sequence
from typing import NamedTuple

from toolkit.planner.cost import constants
from toolkit.planner.cost.cpu_engine import SMALL
from toolkit.planner.cost.network import p2p_seconds
from toolkit.planner.cost.rates import Rates
from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.setup import Setup


class Crossings(NamedTuple):
    """Tensors from stage to stage on the longest way through a step."""

    num_bytes: float
    """Of one tensor."""
    one: float
    """Seconds that it takes."""
    seen: float
    """Part of them that nothing hides."""
    stall: float
    """Seconds that the receiver waits besides, on large clusters."""
    times: int
    """How many follow each other."""

    @property
    def seconds(self) -> float:
        """What a step takes longer."""
        return self.times * (self.one * self.seen + self.stall)


class Bubble(NamedTuple):
    """Waiting of the slowest stage, and its extra work; seconds of one micro-batch, forward and backward."""

    whole: float
    """Through all stages."""
    slowest: float
    """Through the slowest stage."""
    chunks: int
    """Model chunks per stage; more than one interleave."""
    lead: float
    """What the slowest stage takes longer than the mean."""
    times: int
    """Micro-batches of a step."""

    @property
    def seconds(self) -> float:
        """What a step takes longer."""
        return (self.whole - self.slowest) / self.chunks + self.times * self.lead


def crossings(rates: Rates, setup: Setup) -> Crossings:
    """Every micro-batch crosses to the next stage and its gradient back, for each chunk."""
    law = rates.law
    num_bytes = setup.carried_bytes * setup.tokens * setup.shape.hidden
    if law.sequence_parallel and setup.tp_sequence:
        num_bytes /= setup.tp
    one = p2p_seconds(rates, num_bytes, stride=setup.world_size // setup.pp)
    if rates.on_cpu:
        # On the way forward the tensor's shape and the labels go with it, each a message of its own (pipe/p2p.py).
        one += p2p_seconds(rates, SMALL, stride=setup.world_size // setup.pp)
    stalled = setup.world_size >= constants.STALL_NODES * rates.per_node
    return Crossings(
        num_bytes,
        one=one + law.p2p_seconds,
        seen=1.0 if rates.on_cpu else 1.0 - law.p2p_overlap,
        stall=law.p2p_stall_seconds if stalled else 0.0,
        # Longest way: twice per micro-batch, once more over all stages, and the last one only turns around. Over gloo
        # one less, where each is waited for: there and back with two stages and a micro-batch, as was counted.
        times=2 * (setup.grad_accum * setup.vpp + setup.pp) - (4 if rates.on_cpu else 3),
    )


def slowest_stage(stages: Sequence[int], *, layer: float, head: float) -> float:
    """Seconds of one micro-batch on the slowest of stages of so many layers each; the last has the head too."""
    return max(max(stages) * layer, stages[-1] * layer + head)


def bubble(setup: Setup, *, layer: float, head: float) -> Bubble:
    """Waiting and extra work of the slowest stage.

    It waits for the first micro-batch to come and the last to go, which is the time of all other stages, divided by the
    chunks of an interleaved schedule (2104.04473, 2.2); and it works longer than the mean stage on every micro-batch.

    Args:
        setup: layout and schedule.
        layer: seconds of a layer, forward and backward of one micro-batch.
        head: the same of the head and the loss.
    """
    slowest = slowest_stage(stage_layers(setup), layer=layer, head=head)
    whole = setup.shape.num_layers * layer + head
    return Bubble(whole, slowest, setup.vpp, max(slowest - whole / setup.pp, 0.0), setup.grad_accum)
