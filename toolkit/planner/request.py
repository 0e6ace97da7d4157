"""What is asked of the planner, and every fault in the question at once."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from toolkit.errors import SpecError
from toolkit.specs.base import Spec
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


class Fixed(Spec):
    """Decisions made by the user; what is not given, the planner chooses."""

    tp: int | None = Field(default=None, gt=0)
    """Tensor-parallel ranks per replica."""
    pp: int | None = Field(default=None, gt=0)
    """Pipeline stages per replica."""
    sp: int | None = Field(default=None, gt=0)
    """Sequence-parallel ranks per replica."""
    zero_stage: Literal[0, 1, 2, 3] | None = None
    """ZeRO stage: 0 shards nothing, 1 optimizer states, 2 also gradients, 3 also weights."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Samples per rank per forward pass."""
    offload: Literal["none", "optimizer", "all"] | None = None
    """What lives in host memory: nothing, the optimizer states, or optimizer states and weights."""
    activation_checkpointing: bool | None = None
    """Keep only each layer's input and recompute the rest in the backward pass."""

    def given(self) -> dict[str, object]:
        """The pins that are set, by name."""
        return {name: value for name, value in self if value is not None}

    def options(self) -> list[str]:
        """The pins as words of a `toolkit plan` line."""
        words: list[str] = []
        for name, value in self.given().items():
            if name == "activation_checkpointing":
                words.append("--checkpointing" if value else "--no-checkpointing")
            else:
                words += [f"--{name.removesuffix('_stage').replace('_', '-')}", str(value)]
        return words


class Request(NamedTuple):
    """One question to the planner."""

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    fixed: Fixed

    @property
    def rank_batch(self) -> int:
        """Samples per rank and optimizer step: micro_batch x grad_accum."""
        return self.workload.global_batch // self.cluster.world_size


def check_request(request: Request) -> None:
    """Refuse what cannot be planned.

    Raises:
        SpecError: all faults, one per line, each with values that work.
    """
    faults = [*_workload_faults(request), *_parallel_faults(request), *_zero_faults(request.fixed)]
    faults += _batch_faults(request)
    if faults:
        raise SpecError("\n".join(faults))


def divisors(number: int) -> list[int]:
    """Divisors in ascending order."""
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def _workload_faults(request: Request) -> Iterator[str]:
    model, device, workload = request.model, request.cluster.device, request.workload
    limit = model.max_position_embeddings
    if workload.seq_len > limit:
        yield f"seq_len={workload.seq_len} exceeds {model.name}'s max_position_embeddings {limit}; use {limit} or less"
    if workload.precision == "bf16" and not device.supports_bf16:
        yield f"precision=bf16: {device.name} has no bf16; use fp16"


def _parallel_faults(request: Request) -> Iterator[str]:
    """A value that no engine could run, then a value that no engine of this release runs."""
    fixed, model = request.fixed, request.model
    for name, value in (("tp", fixed.tp), ("sp", fixed.sp)):
        if value is not None and value > 1:
            yield _heads_fault(name, value, request) or _no_engine(name, value)
    if fixed.pp is not None and fixed.pp > model.num_layers:
        yield f"pp={fixed.pp} exceeds the {model.num_layers} layers of {model.name}; use 1 to {model.num_layers}"
    elif fixed.pp is not None and fixed.pp > 1:
        yield _no_engine("pp", fixed.pp)


def _heads_fault(name: str, value: int, request: Request) -> str | None:
    model = request.model
    works = [n for n in divisors(math.gcd(model.num_heads, model.num_kv_heads)) if n <= request.cluster.world_size]
    for count, what in ((model.num_heads, "attention heads"), (model.num_kv_heads, "key/value heads")):
        if count % value:
            return f"{name}={value} does not divide {count} {what}; use {_choice(works)}"
    return None


def _no_engine(name: str, value: int) -> str:
    what = {"tp": "tensor", "pp": "pipeline", "sp": "sequence"}[name]
    return f"{name}={value}: this release has no engine for {what} parallelism; use {name}=1"


def _zero_faults(fixed: Fixed) -> Iterator[str]:
    stage, offload = fixed.zero_stage, fixed.offload
    if offload == "all" and stage not in (None, 3):
        yield f"offload=all needs ZeRO-3, the stage that shards weights, not zero_stage={stage}; use zero_stage=3"
    if offload == "optimizer" and stage == 0:
        yield "offload=optimizer needs sharded optimizer states, not zero_stage=0; use zero_stage=1, 2 or 3"


def _batch_faults(request: Request) -> Iterator[str]:
    ranks, micro, batch = request.cluster.world_size, request.fixed.micro_batch, request.workload.global_batch
    if micro is not None and batch % (ranks * micro):
        unit = f"{ranks} ranks x micro_batch={micro}"
        yield f"global_batch={batch} is not a multiple of {unit}; use {_nearest(batch, ranks * micro)}"
    elif batch % ranks:
        yield f"global_batch={batch} is not a multiple of {ranks} ranks; use {_nearest(batch, ranks)}"


def _nearest(number: int, step: int) -> str:
    below = number // step * step
    return _choice([n for n in (below, below + step) if n > 0])


def _choice(values: Sequence[object]) -> str:
    """'1, 2, 4 or 8'."""
    words = [str(value) for value in values]
    return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])
