"""Peak memory: the maximum over the instants of a step, on the fullest stage."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from toolkit.planner.estimates import MemoryEstimate
from toolkit.planner.memory.activations import (
    MicroBatch,
    freed_first,
    in_flight,
    kept_in_flight,
    micro_batch_bytes,
)
from toolkit.planner.memory.buffers import buffer_bytes
from toolkit.planner.memory.host import offloaded_bytes
from toolkit.planner.memory.process import high_water, in_process
from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.memory.states import States, states_of
from toolkit.planner.setup import Setup
from toolkit.units import GiB

HEADROOM = 0.05
"""Part of the memory left free: predictions are off by a few percent, and some of the device is never usable."""

CPU_PROCESS_BYTES = GiB // 2
"""Interpreter and libraries of one training process without a GPU (resident size after importing torch, deepspeed)."""


class Instant(NamedTuple):
    """Bytes that are alive at one moment of the step, beside those that stay from step to step."""

    size: float
    """All that differs between instants: the sum of the rest."""
    name: str
    gradients: float
    activations: float
    logits: float
    optimizer: float
    """What the optimizer step adds to its states."""
    buffers: float


InstantTerms = tuple[float, str, float, float, float, float, float]
PeakTerms = tuple[int, int, str, int, int, int, int, int, int, int, int]
"""Fields of Instant and Peak as plain tuples: the search makes a hundred thousand and keeps few."""


class Resident(NamedTuple):
    """What a stage holds whatever its micro-batch."""

    stage: int
    layers: int
    """Decoder layers of the stage."""
    states: States
    buffers: float
    """Communication buffers, gathered and dequantised weights."""
    last: bool
    """True on the stage with head and loss."""


class Peak(NamedTuple):
    """Bytes of one device at the fullest instant of a step, term by term."""

    total: int
    stage: int
    instant: str
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    fragmentation: int
    context: int


def estimate_memory(setup: Setup, stage: int | None = None) -> MemoryEstimate:
    """Peak bytes on the fullest device, or on a device of the given pipeline stage."""
    residents = residents_of(setup) if stage is None else (_resident(setup, stage, states_of(setup, stage)),)
    return estimate_of(setup, peak(setup, residents, micro_batch_bytes(setup)))


def estimate_of(setup: Setup, peak: Peak) -> MemoryEstimate:
    """A peak with what it takes outside of the device, for reading and writing."""
    host, disk = offloaded_bytes(setup)
    return MemoryEstimate(
        weights_bytes=peak.weights,
        gradients_bytes=peak.gradients,
        optimizer_bytes=peak.optimizer,
        activations_bytes=peak.activations,
        logits_bytes=peak.logits,
        buffers_bytes=peak.buffers,
        fragmentation_bytes=peak.fragmentation,
        context_bytes=peak.context,
        host_bytes=host,
        disk_bytes=disk,
        stage=peak.stage,
        instant=peak.instant,
        spread=spread_of(setup),
    )


def spread_of(setup: Setup) -> float:
    """`MemoryEstimate.spread` of the set-up's framework and method."""
    law = setup.profile.memory
    return law.spread if setup.method == "full" else law.adapter_spread


def residents_of(setup: Setup) -> tuple[Resident, ...]:
    """The stages that can be the fullest.

    The first stage holds the most micro-batches in flight, the last one the logits; of the others those are looked at
    that have more layers than all before them.
    """
    layers, last = stage_layers(setup), setup.pp - 1
    stages, most = {0, last}, 0
    for stage in range(last):
        if layers[stage] > most:
            most = layers[stage]
            stages.add(stage)
            if not setup.profile.memory.persistent_grads:
                # With pp - stage micro-batches a stage has no gradients of earlier ones when all are in flight; the
                # next one has.
                stages.add(stage + 1)
    return tuple(_resident(setup, stage, states_of(setup, stage)) for stage in sorted(stages))


def _resident(setup: Setup, stage: int, states: States) -> Resident:
    layers = stage_layers(setup)[stage]
    return Resident(stage, layers, states, buffer_bytes(setup, stage, states), stage == setup.pp - 1)


def peak(setup: Setup, residents: Sequence[Resident], one: MicroBatch) -> Peak:
    """The fullest device of the given stages at its fullest instant.

    Args:
        setup: the set-up.
        residents: of the set-up, or of one that differs in micro-batch, accumulation and checkpointing only.
        one: what one of its micro-batches takes.
    """
    context = context_bytes(setup)
    return Peak(*max([_on_stage(setup, resident, one, context) for resident in residents], key=itemgetter(0)))


def _on_stage(setup: Setup, resident: Resident, one: MicroBatch, context: int) -> PeakTerms:
    law, states = setup.profile.memory, resident.states
    fullest = max(_instants(setup, resident, one), key=itemgetter(0))
    _, name, gradients, activations, logits, optimizer, buffers = fullest
    churn = activations + logits + buffers + (0.0 if law.persistent_grads else gradients)
    # A process's holes are in its terms already.
    fragmentation = 0 if in_process(setup) else int(law.fragmentation * churn + law.fragmentation_bytes)
    weights, held, kept = int(states.weights), int(states.optimizer + optimizer), int(activations)
    gradients, logits, buffers = int(gradients), int(logits), int(buffers)
    total = weights + gradients + held + kept + logits + buffers + fragmentation + context
    return (
        total, resident.stage, name, weights, gradients, held, kept, logits, buffers, fragmentation, context
    )  # fmt: skip


def instants(setup: Setup, stage: int, states: States) -> tuple[Instant, ...]:
    """The moments at which a step can be fullest, on one stage.

    Gradients of earlier micro-batches are there from the second forward pass on; those of a first and only micro-batch
    grow while the backward pass frees activations, so they never meet all of both.
    """
    found = _instants(setup, _resident(setup, stage, states), micro_batch_bytes(setup))
    return tuple(Instant(*one) for one in found)


def _instants(setup: Setup, resident: Resident, one: MicroBatch) -> tuple[InstantTerms, ...]:
    law, (stage, layers, states, buffers, last) = setup.profile.memory, resident
    kept = kept_in_flight(setup, one, stage=stage, layers=layers)
    first_backward = kept + one.working - freed_first(setup, one, stage)
    if in_process(setup):
        heap = high_water(setup, states, activations=first_backward, logits=one.logits if last else 0.0)
        return ((sum(heap), "after some steps", heap.gradients, heap.activations, heap.logits, 0.0, heap.buffers),)
    again = not law.persistent_grads and setup.grad_accum > in_flight(setup, stage)
    earlier = states.gradients if law.persistent_grads or again else 0.0
    logits, backward, final = one.logits if last else 0.0, first_backward, states.gradients
    temporary = _optimizer_temporary(setup, states)
    first = "second micro-batch, " if again and earlier else ""
    # Behind the first backward pass of a pipeline's warm-up: whole gradients, and all other micro-batches in flight.
    begun = in_flight(setup, stage)
    waiting = kept * (begun - 1) / begun + one.working if begun > 1 else one.working
    return (
        (earlier + kept + logits + buffers, f"{first}last forward", earlier, kept, logits, 0.0, buffers),
        (earlier + backward + buffers, f"{first}first backward", earlier, backward, 0.0, 0.0, buffers),
        (final + waiting + buffers, "end of backward", final, waiting, 0.0, 0.0, buffers),
        (final + temporary, "optimizer step", final, 0.0, 0.0, temporary, 0.0),
    )


def _optimizer_temporary(setup: Setup, states: States) -> float:
    """What the optimizer step adds.

    PyTorch's Adam makes an intermediate of the moments' type (torch/optim/adam.py, foreach). DeepSpeed's copies the
    gradients to fp32: all of a partition (stage_1_and_2.py, step), of a sub-group at a time in stage 3 (stage3.py).
    """
    law = setup.profile.memory
    if setup.offload != "none":
        return 0.0
    at_a_time = states.updated
    if law.gathers == "deepspeed" and setup.zero_stage >= 3:
        at_a_time = min(at_a_time, setup.buckets.sub_group)
    return law.optimizer_temp_bytes * min(1.0, setup.states.optimizer / 8) * at_a_time


def context_bytes(setup: Setup) -> int:
    """Context, kernels and communicators of one process."""
    if setup.cluster.device.kind == "cpu":
        return CPU_PROCESS_BYTES
    law = setup.profile.memory
    return int(law.context_bytes + (law.communicator_bytes if setup.world_size > 1 else 0.0))
