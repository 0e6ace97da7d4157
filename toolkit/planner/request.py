"""What is asked of the planner, and every fault in the question at once."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import Field

from toolkit.errors import SpecError
from toolkit.planner.engines import ENGINES, RELEASED, Fault, choice, divisors, fault, nearest
from toolkit.planner.resolve import base_setup
from toolkit.planner.setup import Checkpointing
from toolkit.planner.strategy import EngineName
from toolkit.specs.base import Spec
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


class Fixed(Spec):
    """Decisions made by the user; what is not given, the planner chooses."""

    engine: EngineName | None = None
    """Which engine runs the step: zero, pipeline or mcore."""
    tp: int | None = Field(default=None, gt=0)
    """Tensor-parallel ranks per replica."""
    pp: int | None = Field(default=None, gt=0)
    """Pipeline stages per replica."""
    vpp: int | None = Field(default=None, gt=0)
    """Model chunks per pipeline stage; above 1 the schedule is interleaved."""
    sp: int | None = Field(default=None, gt=0)
    """Sequence-parallel ranks per replica (Ulysses)."""
    cp: int | None = Field(default=None, gt=0)
    """Context-parallel ranks per replica (ring attention)."""
    zero_stage: Literal[0, 1, 2, 3] | None = None
    """ZeRO stage: 0 shards nothing, 1 optimizer states, 2 also gradients, 3 also weights."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Samples per replica per forward pass."""
    offload: Literal["none", "optimizer", "all"] | None = None
    """What lives in host memory: nothing, the optimizer states, or optimizer states and weights."""
    offload_to: Literal["cpu", "nvme"] | None = None
    """Where offloaded states live: host memory, or a local disk."""
    activation_checkpointing: Checkpointing | None = None
    """What the backward pass recomputes: nothing, the attention core (selective), or each layer (full)."""

    def given(self) -> dict[str, object]:
        """The pins that are set, by name."""
        return {name: value for name, value in self if value is not None}

    def options(self) -> list[str]:
        """The pins as words of a `toolkit plan` line."""
        words: list[str] = []
        for name, value in self.given().items():
            option = {"zero_stage": "zero", "activation_checkpointing": "checkpointing"}.get(name, name)
            words += [f"--{option.replace('_', '-')}", str(value)]
        return words


class Request(NamedTuple):
    """One question to the planner."""

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    fixed: Fixed

    @property
    def beyond_release(self) -> bool:
        """True where the user asks for what this release plans and cannot run yet, or leaves it no other way."""
        fixed = self.fixed
        degrees = (fixed.tp, fixed.pp, fixed.vpp, fixed.sp, fixed.cp)
        recompute = fixed.activation_checkpointing
        asked = fixed.engine not in (None, RELEASED) or any((degree or 1) > 1 for degree in degrees)
        asked = asked or fixed.offload_to == "nvme"
        asked = asked or (recompute is not None and recompute not in ENGINES[RELEASED].checkpointing)
        return asked or _replicas_of_nodes(self)


def _replicas_of_nodes(request: Request) -> bool:
    """A global batch smaller than a cluster of several nodes: replicas must span ranks, as only other engines do."""
    ranks, batch = request.cluster.world_size, request.workload.global_batch
    return request.cluster.num_nodes > 1 and batch < ranks and ranks % batch == 0


def check_request(request: Request) -> None:
    """Refuse what no engine could run; what none of this release runs is planned all the same.

    Raises:
        SpecError: all faults, one per line, each with values that work.
    """
    faults = [*workload_faults(request), *_choice_faults(request), *_batch_faults(request)]
    if faults:
        raise SpecError("\n".join(faults))


def workload_faults(request: Request) -> Iterator[str]:
    """What neither model nor device allows."""
    model, device, workload = request.model, request.cluster.device, request.workload
    limit = model.max_position_embeddings
    if workload.seq_len > limit:
        yield f"seq_len={workload.seq_len} exceeds {model.name}'s max_position_embeddings {limit}; use {limit} or less"
    if workload.precision == "bf16" and not device.supports_bf16:
        yield f"precision=bf16: {device.name} has no bf16; use fp16"


def _choice_faults(request: Request) -> Iterator[str]:
    """What is given, one after the other: what every engine that may be chosen refuses."""
    fixed, world = request.fixed, request.cluster.world_size
    options: list[list[dict[str, object]]] = [[{}]]
    for name in ("tp", "pp", "sp", "cp"):
        options.append([{name: getattr(fixed, name)}])
    # Any number of stages that the planner could choose will do.
    stages = divisors(world) if fixed.pp is None else [fixed.pp]
    options.append([{"vpp": fixed.vpp, "pp": pp} for pp in stages])
    offload: dict[str, object] = {"offload": fixed.offload, "offload_to": fixed.offload_to}
    able = [3, 2, 1, 0] if fixed.zero_stage is None else [fixed.zero_stage]
    options.append([{"zero_stage": stage, **offload} for stage in able])
    options.append([{"checkpointing": fixed.activation_checkpointing}])
    found = [words for option in options for words in _common_fault(request, option)]
    degrees = {name: value for name in ("tp", "pp", "sp", "cp") if (value := getattr(fixed, name) or 1) > 1}
    if not found and world % math.prod(degrees.values()):
        given = " x ".join(f"{name}={value}" for name, value in degrees.items())
        found = [f"{given} does not divide {world} ranks; use {choice(divisors(world))}"]
    yield from dict.fromkeys(found)


def _common_fault(request: Request, options: list[dict[str, object]]) -> Iterator[str]:
    """The most telling fault where every engine that may be chosen refuses all of the options."""
    found: list[Fault] = []
    for engine in ENGINES if request.fixed.engine is None else [request.fixed.engine]:
        base = base_setup(request.model, request.cluster, workload=request.workload, engine=engine)
        # Legal but for what is given: two stages where an engine needs them, a ZeRO stage that all have.
        base = base._replace(pp=2 if engine == "pipeline" else 1, zero_stage=1)
        for option in options:
            setup = base._replace(**{name: value for name, value in option.items() if value is not None})  # type: ignore[arg-type]
            # Accumulation is chosen later: a number of micro-batches that any interleaved schedule can take.
            one = fault(engine, setup._replace(grad_accum=setup.pp))
            if one is None:
                return
            found.append(one)
    yield min(found, key=lambda one: _TELLING.get(one.kind, 0)).words


_TELLING = {"engine rule": 1, "not of the engine": 2}
"""A number that does not divide says more than a rule, a rule more than that an engine has no such thing."""


def _batch_faults(request: Request) -> Iterator[str]:
    ranks, micro, batch = request.cluster.world_size, request.fixed.micro_batch, request.workload.global_batch
    if request.beyond_release:
        return
    if micro is not None and batch % (ranks * micro):
        unit = f"{ranks} ranks x micro_batch={micro}"
        yield f"global_batch={batch} is not a multiple of {unit}; use {nearest(batch, ranks * micro)}"
    elif batch % ranks:
        yield f"global_batch={batch} is not a multiple of {ranks} ranks; use {nearest(batch, ranks)}"
