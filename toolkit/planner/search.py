"""Search: generate every strategy that the engine can run, judge each by memory, rank by time."""

from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple

from toolkit.errors import NoFeasiblePlan
from toolkit.planner.cost import estimate_time
from toolkit.planner.explain import (
    SILENT_ZERO_0,
    binding_constraint,
    is_tight,
    overshoot,
    reasons,
    usable_words,
)
from toolkit.planner.knobs import cheapest_knob
from toolkit.planner.memory import estimate_memory
from toolkit.planner.plan import Candidate, Layout, MemoryEstimate, Plan, Rejection, Strategy
from toolkit.planner.request import Fixed, Request, check_request, divisors
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

__all__ = ["Fixed", "make_plan"]

MAX_ALTERNATIVES = 5
TIE = 0.02
"""Step times this close are equal: the cost model cannot tell them apart, so the simpler strategy wins."""

Stage = Literal[0, 1, 2, 3]
Offload = Literal["none", "optimizer", "all"]
Family = tuple[Stage, Offload, bool]
"""Strategies that differ in their micro-batch only."""

OFFLOADS: dict[Stage, tuple[Offload, ...]] = {
    0: ("none",),
    1: ("none", "optimizer"),
    2: ("none", "optimizer"),
    3: ("none", "optimizer", "all"),
}
"""What DeepSpeed can move to the host at each stage (zero/config.py: offload_param is valid only with stage 3)."""


class Judged(NamedTuple):
    """A strategy and what it needs; it fits where `overshoot` is at most 1."""

    strategy: Strategy
    memory: MemoryEstimate
    overshoot: float

    @property
    def family(self) -> Family:
        """What it shares with its neighbours of another micro-batch."""
        return _family(self.strategy)


def make_plan(
    model: ModelSpec, cluster: ClusterSpec, workload: Workload, *, fixed: Fixed, gradient_clipping: float = 1.0
) -> Plan:
    """The fastest strategy that fits, with the reasons, the next best and what does not run.

    Raises:
        SpecError: the question itself has faults, all named at once.
        NoFeasiblePlan: nothing fits; names the nearest strategy, what binds it and the cheapest change that helps.
    """
    request = Request(model, cluster, workload, fixed)
    check_request(request)
    judged = judge(request)
    ranked = _rank(request, [_candidate(request, one) for one in judged if one.overshoot <= 1])
    if not ranked:
        raise NoFeasiblePlan(_nothing_fits(request, min(judged, key=lambda one: one.overshoot)))
    chosen = ranked[0]
    alternatives = _best_of_families(ranked)
    return Plan(
        model=model,
        cluster=cluster,
        workload=workload,
        strategy=chosen.strategy,
        memory=chosen.memory,
        time=chosen.time,
        gradient_clipping=gradient_clipping,
        fixed=fixed,
        reasons=reasons(request, chosen, ranked[1:]),
        alternatives=tuple(alternatives[1 : MAX_ALTERNATIVES + 1]),
        rejected=tuple(_rejections(request, judged, chosen.strategy)),
    )


def judge(request: Request) -> list[Judged]:
    """Every strategy of the search space with its memory, simplest first."""
    judged = []
    for strategy in _generate(request):
        memory = estimate_memory(request.model, request.cluster, workload=request.workload, strategy=strategy)
        judged.append(Judged(strategy, memory, overshoot(memory, request.cluster)))
    return judged


def _generate(request: Request) -> Iterator[Strategy]:
    """The search space less what the user has decided; this release runs one replica per rank."""
    fixed, rank_batch = request.fixed, request.rank_batch
    layout = Layout(dp=request.cluster.world_size)
    micros = [fixed.micro_batch] if fixed.micro_batch else divisors(rank_batch)
    checkpointing = [False, True] if fixed.activation_checkpointing is None else [fixed.activation_checkpointing]
    for (stage, offload), recompute, micro in product(_stages_and_offloads(request), checkpointing, micros):
        yield Strategy(
            layout=layout,
            zero_stage=stage,
            offload=offload,
            activation_checkpointing=recompute,
            micro_batch=micro,
            grad_accum=rank_batch // micro,
        )


def _stages_and_offloads(request: Request) -> Iterator[tuple[Stage, Offload]]:
    fixed = request.fixed
    for stage, offloads in OFFLOADS.items():
        if fixed.zero_stage is None and stage == 0 and request.workload.precision != "fp32":
            continue  # SILENT_ZERO_0
        if fixed.zero_stage not in (None, stage):
            continue
        for offload in offloads:
            # On a CPU device and host are the same memory: moving states there gains nothing unless asked for.
            useful = offload == "none" or request.cluster.device.kind != "cpu"
            if offload == fixed.offload or (fixed.offload is None and useful):
                yield stage, offload


def _candidate(request: Request, judged: Judged) -> Candidate:
    time = estimate_time(request.model, request.cluster, workload=request.workload, strategy=judged.strategy)
    return Candidate(strategy=judged.strategy, memory=judged.memory, time=time)


def _rank(request: Request, candidates: list[Candidate]) -> list[Candidate]:
    """By step time; of those within `TIE` of the fastest left, roomy ones first, then those of fewer moving parts."""
    left = sorted(candidates, key=lambda candidate: candidate.time.step_seconds)
    ranked = []
    while left:
        limit = left[0].time.step_seconds * (1 + TIE)
        ties = [candidate for candidate in left if candidate.time.step_seconds <= limit]
        best = min(ties, key=lambda tie: (is_tight(tie.memory, request.cluster), _moving_parts(tie.strategy)))
        left.remove(best)
        ranked.append(best)
    return ranked


def _moving_parts(strategy: Strategy) -> tuple[int, bool, int, int]:
    offload = ("none", "optimizer", "all").index(strategy.offload)
    return offload, strategy.activation_checkpointing, strategy.zero_stage, strategy.grad_accum


def _best_of_families(ranked: list[Candidate]) -> list[Candidate]:
    """The best micro-batch of each of the best families, the chosen one first."""
    best: dict[Family, Candidate] = {}
    for candidate in ranked:
        best.setdefault(_family(candidate.strategy), candidate)
    return list(best.values())[: MAX_ALTERNATIVES + 1]


def _family(strategy: Strategy) -> Family:
    return strategy.zero_stage, strategy.offload, strategy.activation_checkpointing


def _rejections(request: Request, judged: list[Judged], chosen: Strategy) -> Iterator[Rejection]:
    """The smallest micro-batch that fails: of the chosen family, and of every family where nothing fits."""
    if request.workload.precision != "fp32" and request.fixed.zero_stage is None:
        yield Rejection(strategy="ZeRO-0", reason=f"never chosen with {request.workload.precision}: {SILENT_ZERO_0}")
    told = {one.family for one in judged if one.overshoot <= 1} - {_family(chosen)}
    for one in judged:
        if one.overshoot > 1 and one.family not in told:
            told.add(one.family)
            reason = binding_constraint(one.memory, request.cluster)
            yield Rejection(strategy=one.strategy.words, reason=reason)


def _nothing_fits(request: Request, nearest: Judged) -> str:
    cluster = request.cluster
    where = f"{request.model.name} on {cluster.world_size} x {cluster.device.name} with {usable_words(cluster)}"
    reason = binding_constraint(nearest.memory, cluster)
    knob = cheapest_knob(request, nearest.memory, fits=lambda other: any(one.overshoot <= 1 for one in judge(other)))
    return f"no plan fits {where}; the nearest, {nearest.strategy.words}, {reason}\n{knob}"
