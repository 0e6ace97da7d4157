"""Judging: which candidates fit into device, host and disk, how long those take, and how nearly the others miss.

Numbers here are plain tuples; pydantic models are made of the few that are shown.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from typing_extensions import Self

from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.estimates import MemoryEstimate, TimeEstimate
from toolkit.planner.generate import Group, Tally, generate
from toolkit.planner.memory.activations import MicroBatch, micro_batch_bytes
from toolkit.planner.memory.estimate import HEADROOM, Peak, Resident, context_bytes, estimate_of, peak, residents_of
from toolkit.planner.memory.host import offloaded_bytes
from toolkit.planner.plan import Candidate
from toolkit.planner.request import Request
from toolkit.planner.rules import ENGINES
from toolkit.planner.setup import Checkpointing, Setup
from toolkit.planner.strategy import EngineName, Layout, Strategy
from toolkit.specs.cluster import ClusterSpec

StateFamily = tuple[str, bool, int, str, str, str]
"""Candidates of one engine, with one rank per replica or several, and the same ZeRO stage, offload, checkpointing."""


def family_of(engine: EngineName, setup: Setup, mode: Checkpointing) -> StateFamily:
    """The family of a set-up with this checkpointing."""
    divided = setup.tp * setup.pp * setup.sp * setup.cp > 1
    return engine, divided, setup.zero_stage, setup.offload, setup.offload_to, mode


class Judged(NamedTuple):
    """A candidate and what it needs; it fits where `overshoot` is at most 1."""

    engine: EngineName
    setup: Setup
    peak: Peak
    overshoot: float
    """Need over what may be used, of device, host or disk, whichever is worst."""

    @property
    def family(self) -> StateFamily:
        """What it shares with its neighbours of another layout and micro-batch."""
        return family_of(self.engine, self.setup, self.setup.checkpointing)

    @property
    def strategy(self) -> Strategy:
        """For a Plan."""
        setup = self.setup
        return Strategy.model_construct(
            engine=self.engine,
            layout=Layout.model_construct(dp=setup.dp, tp=setup.tp, pp=setup.pp, sp=setup.sp, cp=setup.cp),
            zero_stage=setup.zero_stage,
            offload=setup.offload,
            offload_to=setup.offload_to,
            activation_checkpointing=setup.checkpointing,
            checkpointing_every=setup.checkpointing_every,
            offload_activations=setup.offload_activations,
            vpp=setup.vpp,
            stages=setup.stages,
            tp_sequence=setup.tp_sequence,
            micro_batch=setup.micro_batch,
            grad_accum=setup.grad_accum,
        )

    @property
    def memory(self) -> MemoryEstimate:
        """For a Plan."""
        return estimate_of(self.setup, self.peak)


class Timed(NamedTuple):
    """A candidate that fits, with its step time."""

    judged: Judged
    time: TimeEstimate
    step_seconds: float

    @property
    def engine(self) -> EngineName:
        """What would run it."""
        return self.judged.engine

    @property
    def is_timed(self) -> bool:
        """Steps of its engine have been timed on GPUs."""
        return ENGINES[self.engine].timed

    @property
    def candidate(self) -> Candidate:
        """For a Plan."""
        return Candidate(strategy=self.judged.strategy, memory=self.judged.memory, time=self.time)


class Verdict(NamedTuple):
    """All candidates of a question."""

    fits: list[Judged]
    nearest: dict[StateFamily, Judged]
    """The candidate closest to fitting, of every family in which any does not fit."""
    tally: Tally
    """How many fell to which kind of reason."""

    @property
    def judged(self) -> int:
        """Candidates that were looked at, those that a rule leaves out among them."""
        return len(self.fits) + sum(self.tally.counts.values())


class Limits(NamedTuple):
    """Bytes that may be used: of a device, and of a node's memory and disk."""

    device: float
    host: float
    disk: float

    @classmethod
    def of(cls, cluster: ClusterSpec) -> Self:
        """A cluster's capacities less the headroom; a disk that nobody has described has no limit."""
        sizes = (cluster.device.memory_bytes, cluster.host_memory_bytes, cluster.nvme_bytes or math.inf)
        return cls(*(size * (1 - HEADROOM) for size in sizes))


def judge(request: Request) -> Verdict:
    """Every candidate of the search space."""
    verdict = Verdict([], {}, Tally())
    judge_group = _Judge(request, verdict).judge_group
    for group in generate(request, verdict.tally):
        judge_group(group)
    return verdict


class _OfEngine(Protocol):
    @property
    def engine(self) -> EngineName: ...


_Fit = TypeVar("_Fit", bound=_OfEngine)


def choosable(fits: Sequence[_Fit]) -> Sequence[_Fit]:
    """Of those that fit, what may be chosen: of engines that have been timed on GPUs, if any of them is there."""
    return [one for one in fits if ENGINES[one.engine].timed] or fits


def anything_fits(request: Request) -> bool:
    """True where something fits; ends with the first."""
    verdict = Verdict([], {}, Tally())
    judge_group = _Judge(request, verdict).judge_group
    for group in generate(request, verdict.tally):
        judge_group(group)
        if verdict.fits:
            return True
    return False


def timed(judged: Judged) -> Timed:
    """A candidate with its step time."""
    time = estimate_time(judged.setup)
    return Timed(judged, time, time.step_seconds)


class _Judge:
    """Judges group after group into one verdict; what micro-batches take is computed once for all groups."""

    def __init__(self, request: Request, verdict: Verdict) -> None:
        self.limits = Limits.of(request.cluster)
        self.verdict = verdict
        self._micro_batches: dict[tuple[object, ...], MicroBatch] = {}

    def judge_group(self, group: Group) -> None:
        """Every candidate of a group, cheap bounds first."""
        setup, limits = group.setup, self.limits
        host, disk = offloaded_bytes(setup)
        elsewhere = max(host / limits.host, disk / limits.disk)
        residents = residents_of(setup)
        least = context_bytes(setup) + max(one.states.weights + one.states.optimizer for one in residents)
        bound = max(least / limits.device, elsewhere)
        kind = "device memory" if elsewhere <= 1 else "host memory" if host > limits.host else "disk"
        for mode in group.checkpointing:
            if bound > 1:
                self.verdict.tally.counts[kind] += len(group.micro_batches)
                self._note(group, mode, residents, elsewhere=elsewhere, bound=bound)
            else:
                self._judge_mode(group, mode, residents, elsewhere=elsewhere)

    def _judge_mode(
        self, group: Group, mode: Checkpointing, residents: tuple[Resident, ...], *, elsewhere: float
    ) -> None:
        fits, usable = self.verdict.fits, self.limits.device
        persistent = group.setup.profile.memory.persistent_grads
        missed = 0
        for index, micro in enumerate(group.micro_batches):
            judged = self._candidate(group, mode, micro, residents=residents, elsewhere=elsewhere)
            if judged.overshoot <= 1:
                fits.append(judged)
                continue
            missed += 1
            self._keep_nearest(judged)
            top = judged.peak
            # Gradients of earlier micro-batches vanish where a larger one is the only one; all else only grows.
            passing = 0 if persistent or top.instant == "optimizer step" else top.gradients
            if top.total - passing - top.fragmentation > usable:
                missed += len(group.micro_batches) - index - 1
                break
        if missed:
            self.verdict.tally.counts["device memory"] += missed

    def _note(
        self, group: Group, mode: Checkpointing, residents: tuple[Resident, ...], *, elsewhere: float, bound: float
    ) -> None:
        """Keep the smallest micro-batch of a hopeless group where it may be the nearest of its family."""
        setup = group.setup
        known = self.verdict.nearest.get(family_of(group.engine, setup, mode))
        if known is None or bound < known.overshoot:
            micro = group.micro_batches[0]
            self._keep_nearest(self._candidate(group, mode, micro, residents=residents, elsewhere=elsewhere))

    def _keep_nearest(self, judged: Judged) -> None:
        nearest, family = self.verdict.nearest, judged.family
        if family not in nearest or judged.overshoot < nearest[family].overshoot:
            nearest[family] = judged

    def _candidate(
        self, group: Group, mode: Checkpointing, micro: int, *, residents: tuple[Resident, ...], elsewhere: float
    ) -> Judged:
        setup = group.setup._replace(checkpointing=mode, micro_batch=micro, grad_accum=group.replica_batch // micro)
        key = (group.engine, micro, setup.tp, setup.sp, setup.cp, mode)
        one = self._micro_batches.get(key)
        if one is None:
            one = self._micro_batches[key] = micro_batch_bytes(setup)
        top = peak(setup, residents, one)
        if setup.offloaded_activations:
            elsewhere = max(elsewhere, offloaded_bytes(setup)[0] / self.limits.host)
        return Judged(group.engine, setup, top, max(top.total / self.limits.device, elsewhere))
