"""The search space: every legal way to divide ranks and states, in groups that differ in micro-batch and checkpointing.

What no engine could run is left out here, counted by the kind of rule it breaks.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from toolkit.planner.engines import chunk_counts, fault, interleaving_faults, layout_faults, state_faults
from toolkit.planner.fault import Fault, Kind
from toolkit.planner.methods import idle_stages
from toolkit.planner.multiples import batch_words, divisors
from toolkit.planner.request import Request
from toolkit.planner.resolve import base_setup, is_undivided, own_stages, state_bytes, with_recompute, with_tp_sequence
from toolkit.planner.rules import ENGINES, Stage
from toolkit.planner.setup import Checkpointing, Offload, OffloadTo, Setup
from toolkit.planner.step_rules import step_faults
from toolkit.planner.strategy import EngineName

MIN_TOKENS = 128
"""Fewest tokens of a sequence that a rank gets unless asked for: one block of a flash-attention kernel (2307.08691)."""

MAX_TP = 32
"""Largest tensor-parallel size unless asked for, where no fast link joins more devices: over slower links than a node's
it loses to pipeline parallelism (2104.04473, takeaway 1)."""


class Group(NamedTuple):
    """Candidates that hold the same states: they differ in micro-batch and checkpointing."""

    engine: EngineName
    setup: Setup
    """All but micro_batch, grad_accum and checkpointing."""
    replica_batch: int
    """Samples per replica and optimizer step: micro_batch x grad_accum."""
    micro_batches: Sequence[int]
    """Ascending."""
    checkpointing: Sequence[Checkpointing]


class Tally:
    """What was left out: how often for which kind of reason, and one example of each in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[tuple[EngineName, Kind], str] = {}

    def add(self, engine: EngineName, found: Fault, number: int = 1) -> None:
        """Count `number` strategies of an engine that fall to a rule."""
        self.counts[found.kind] += number
        self.examples.setdefault((engine, found.kind), found.words)

    def most_telling(self) -> list[str]:
        """What every engine that lacks nothing altogether has against the question, in words."""
        able = [words for (_, kind), words in self.examples.items() if kind != "not of the engine"]
        return list(dict.fromkeys(able or self.examples.values()))


def generate(request: Request, tally: Tally) -> Iterator[Group]:
    """The search space less what the user has decided and what rules exclude."""
    for engine in request.engines:
        base = base_setup(request.model, request.cluster, workload=request.workload, engine=engine)
        base = with_recompute(base, request.fixed.recompute)._replace(stages=request.fixed.stages or ())
        base = with_tp_sequence(base, request.fixed.tp_sequence)
        for layout in _layouts(request, engine, base, tally):
            for states in _states(request, engine, layout, tally):
                yield from _groups(request, engine, states, tally)


def _layouts(request: Request, engine: EngineName, base: Setup, tally: Tally) -> Iterator[Setup]:
    """Every division of the ranks that the engine and the model allow; the rest of them is data-parallel."""
    fixed, world, rules = request.fixed, request.cluster.world_size, ENGINES[engine]
    every = divisors(world)

    def sizes(name: str, given: int | None) -> list[int]:
        if given is not None:
            return [given]
        if name not in rules.degrees:
            return [1]
        most = {"tp": max(MAX_TP, request.cluster.fast_domain), "pp": world}
        largest = most.get(name, max(1, request.workload.seq_len // MIN_TOKENS))
        return [size for size in every if size <= largest]

    tps, pps, sps, cps = sizes("tp", fixed.tp), sizes("pp", fixed.pp), sizes("sp", fixed.sp), sizes("cp", fixed.cp)
    for tp in tps:
        for pp in pps:
            for sp in sps:
                for cp in cps:
                    replica = tp * pp * sp * cp
                    if world % replica:
                        continue
                    layout = base._replace(dp=world // replica, tp=tp, pp=pp, sp=sp, cp=cp)
                    found = next(layout_faults(engine, layout), None)
                    if found is None:
                        yield layout
                    else:
                        tally.add(engine, found)


def _states(request: Request, engine: EngineName, layout: Setup, tally: Tally) -> Iterator[Setup]:
    """ZeRO stages and offloads."""
    fixed, able = request.fixed, False
    for stage, offload, to in _stages(request, engine, tally):
        able = True
        setup = layout._replace(zero_stage=stage, offload=offload, offload_to=to, states=state_bytes(layout, stage))
        found = next(state_faults(engine, setup), None)
        if found is None:
            yield setup
        else:
            tally.add(engine, found)
    if not able:
        offloaded = fixed.offload or ("optimizer" if fixed.offload_to == "nvme" else "none")
        stage = 1 if fixed.zero_stage is None else fixed.zero_stage
        given = layout._replace(zero_stage=stage, offload=offloaded, offload_to=fixed.offload_to or "cpu")
        for found in state_faults(engine, given):
            tally.add(engine, found)


def _stages(request: Request, engine: EngineName, tally: Tally) -> Iterator[tuple[Stage, Offload, OffloadTo]]:
    fixed, rules, cluster = request.fixed, ENGINES[engine], request.cluster
    for stage, offloads in rules.zero.items():
        if fixed.zero_stage not in (None, stage):
            continue
        if fixed.zero_stage is None and stage == 0 and request.workload.weights != "fp32":
            tally.counts["ZeRO-0 in 16 bits"] += 1
            continue
        for offload in offloads:
            if fixed.offload_to == "nvme" and offload == "none":
                continue
            # On a CPU device and host are the same memory: moving states there gains nothing unless asked for.
            useful = offload == "none" or cluster.device.kind != "cpu"
            if not (offload == fixed.offload or (fixed.offload is None and useful)):
                continue
            if fixed.offload_to is not None:
                yield stage, offload, fixed.offload_to if offload != "none" else "cpu"
                continue
            yield stage, offload, "cpu"
            if offload != "none" and stage in rules.nvme and cluster.nvme_bytes is not None:
                yield stage, offload, "nvme"


def _groups(request: Request, engine: EngineName, setup: Setup, tally: Tally) -> Iterator[Group]:
    """Numbers of chunks per stage, with the micro-batches and the checkpointing that go with each."""
    fixed, rules, batch = request.fixed, ENGINES[engine], request.workload.global_batch
    micro = fixed.micro_batch
    if batch % (setup.dp * (micro or 1)):
        if (engine, "batch") in tally.examples:
            tally.counts["batch"] += 1
        else:
            tally.add(engine, Fault("batch", batch_words(batch, setup.dp, micro, unit="replica")))
        return
    replica_batch = batch // setup.dp
    micros = [micro] if micro else divisors(replica_batch)
    pinned = fixed.activation_checkpointing
    # Selective checkpointing of scores that are not in memory keeps as much as none and computes more. That of products
    # saves memory, but no published run has measured it with these engines: only if asked for.
    worth = not setup.flash_attention and setup.profile.memory.products is None
    free = [mode for mode in rules.checkpointing if mode != "selective" or worth]
    modes = free if pinned is None else [pinned]
    if pinned is None and setup.recomputes_in_part:
        modes = ["full"]
    wrong = next(step_faults(engine, setup._replace(checkpointing=modes[0])), None)
    if pinned is not None and pinned not in rules.checkpointing:
        wrong = fault(engine, setup._replace(checkpointing=pinned))
    if wrong is not None:
        tally.add(engine, wrong)
        return
    for vpp in _chunks(request, engine, setup):
        chunked = setup._replace(vpp=vpp)
        able = []
        for one in micros:
            found = next(interleaving_faults(engine, chunked._replace(grad_accum=replica_batch // one)), None)
            if found is None:
                able.append(one)
            else:
                tally.add(engine, found, len(modes))
        if able:
            for group in _by_split(Group(engine, chunked, replica_batch, able, modes)):
                words = next(idle_stages(group.setup), None)
                if words is None:
                    yield group
                else:
                    tally.add(engine, Fault("layers", words), len(group.micro_batches) * len(group.checkpointing))


def _by_split(group: Group) -> Iterator[Group]:
    """The group, or its parts of equal stages: what balances them follows from micro-batch and checkpointing."""
    if not is_undivided(group.setup):
        yield group
        return
    if group.setup.profile.memory.split != "balanced":
        yield group._replace(setup=group.setup._replace(stages=own_stages(group.setup)))
        return
    for mode in group.checkpointing:
        split = functools.partial(_split, group.setup._replace(checkpointing=mode))
        for stages, micros in itertools.groupby(group.micro_batches, split):
            yield group._replace(
                setup=group.setup._replace(stages=stages), micro_batches=list(micros), checkpointing=[mode]
            )


def _split(setup: Setup, micro_batch: int) -> tuple[int, ...]:
    return own_stages(setup._replace(micro_batch=micro_batch))


def _chunks(request: Request, engine: EngineName, setup: Setup) -> list[int]:
    if request.fixed.vpp is not None:
        return [request.fixed.vpp]
    if "vpp" not in ENGINES[engine].degrees or setup.pp == 1:
        return [1]
    return chunk_counts(setup.shape.num_layers, setup.pp)
