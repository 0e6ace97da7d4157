"""The Plan: every decision of a run, resolved, and the reasons; the only thing that crosses to the cluster half."""

import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field
from typing_extensions import Self

from toolkit.errors import ConfigError, SpecError
from toolkit.planner.request import Fixed
from toolkit.specs.base import Spec
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

PLAN_VERSION: Literal[1] = 1


class Layout(Spec):
    """How the ranks are divided: tp x pp x sp x dp = world_size."""

    dp: int = Field(gt=0)
    """Data-parallel replicas."""
    tp: int = Field(default=1, gt=0)
    """Tensor-parallel ranks per replica."""
    pp: int = Field(default=1, gt=0)
    """Pipeline stages per replica."""
    sp: int = Field(default=1, gt=0)
    """Sequence-parallel ranks per replica."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.dp * self.tp * self.pp * self.sp


class Strategy(Spec):
    """One point of the search space; with the model, cluster and workload it determines every emitted number."""

    engine: Literal["zero"] = "zero"
    """Which engine runs the step; `zero` is accelerate + DeepSpeed ZeRO."""
    layout: Layout
    """How the ranks are divided."""
    zero_stage: Literal[0, 1, 2, 3]
    """0 shards nothing, 1 optimizer states, 2 also gradients, 3 also weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in host memory: nothing, the optimizer states, or optimizer states and weights."""
    activation_checkpointing: bool = False
    """True keeps only each layer's input and recomputes the rest in the backward pass."""
    micro_batch: int = Field(gt=0)
    """Samples per rank per forward pass."""
    grad_accum: int = Field(gt=0)
    """Forward/backward passes per optimizer step."""

    @property
    def words(self) -> str:
        """For people: 'ZeRO-2, offload optimizer, checkpointing, micro-batch 4'."""
        offload = [] if self.offload == "none" else [f"offload {self.offload}"]
        checkpointing = ["checkpointing"] if self.activation_checkpointing else []
        return ", ".join([f"ZeRO-{self.zero_stage}", *offload, *checkpointing, f"micro-batch {self.micro_batch}"])


MEMORY_TERMS = {
    "weights_bytes": "weights",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer states",
    "activations_bytes": "activations",
    "logits_bytes": "logits",
    "buffers_bytes": "buffers",
    "context_bytes": "context",
}
"""Device terms of a MemoryEstimate and their names."""


class MemoryEstimate(Spec):
    """Peak bytes on the fullest device, term by term; `total_bytes` is their sum."""

    weights_bytes: int
    """Weights in compute precision held by the rank."""
    gradients_bytes: int
    """Gradients held by the rank."""
    optimizer_bytes: int
    """fp32 master weights and Adam moments held on the device."""
    activations_bytes: int
    """Tensors kept for the backward pass by all layers of one micro-batch."""
    logits_bytes: int
    """Logits, their fp32 copy and gradient of one micro-batch."""
    buffers_bytes: int
    """Communication buckets and weights gathered by ZeRO-3."""
    context_bytes: int
    """Device context, kernels and communicator."""
    host_bytes: int
    """Host memory per node taken by offloaded states; not part of the device total."""

    @property
    def total_bytes(self) -> int:
        """Sum of the device terms."""
        return sum(int(getattr(self, term)) for term in MEMORY_TERMS)


class TimeEstimate(Spec):
    """Seconds of one optimizer step by cause; `step_seconds` is their sum."""

    compute_seconds: float
    """Matrix multiplications of all accumulation steps, with recomputation."""
    communication_seconds: float
    """Collectives that no computation hides."""
    offload_seconds: float
    """Transfers to host memory and the optimizer step there."""

    @property
    def step_seconds(self) -> float:
        """Sum of the terms."""
        return self.compute_seconds + self.communication_seconds + self.offload_seconds


class Candidate(Spec):
    """A strategy that fits, with what it is predicted to take."""

    strategy: Strategy
    """How it would train."""
    memory: MemoryEstimate
    """Predicted peak memory."""
    time: TimeEstimate
    """Predicted step time."""


class Rejection(Spec):
    """A strategy that lost before ranking, and why."""

    strategy: str
    """The strategy in words, as in 'ZeRO-1, micro-batch 4'."""
    reason: str
    """The binding constraint with its numbers, as in 'needs 91.0 GiB of 80.0 GiB: activations 52.1 GiB'."""


class Plan(Spec):
    """A resolved run: what was asked, what was chosen, why, and what lost."""

    version: Literal[1] = PLAN_VERSION
    """Format of this file."""
    model: ModelSpec
    """The model planned for."""
    cluster: ClusterSpec
    """The machines planned for."""
    workload: Workload
    """The work of one optimizer step."""
    strategy: Strategy
    """The choice."""
    memory: MemoryEstimate
    """Predicted peak memory of the choice."""
    time: TimeEstimate
    """Predicted step time of the choice."""
    gradient_clipping: float = Field(gt=0)
    """Largest global gradient norm (L2); DeepSpeed's own default differs between releases, so it is always written."""
    fixed: Fixed = Fixed()
    """What the user had decided before the search."""
    reasons: tuple[str, ...]
    """Why this choice, one sentence each."""
    alternatives: tuple[Candidate, ...] = ()
    """The next best strategies that fit, best first."""
    rejected: tuple[Rejection, ...] = ()
    """Strategies that do not run, with their reasons."""

    @property
    def world_size(self) -> int:
        """Number of ranks that the run must have."""
        return self.strategy.layout.world_size

    @property
    def tokens_per_step(self) -> int:
        """Upper bound of tokens per optimizer step: global_batch x seq_len."""
        return self.workload.global_batch * self.workload.seq_len

    def check_workload(self, workload: Workload, folder: Path) -> None:
        """Refuse a recipe whose workload is not the one planned for.

        Raises:
            ConfigError: naming each value that differs, and the command that plans again.
        """
        differing = [
            f"{name} is {getattr(workload, name)}, planned {getattr(self.workload, name)}"
            for name in type(workload).model_fields
            if getattr(workload, name) != getattr(self.workload, name)
        ]
        if differing:
            raise ConfigError(
                f"recipe.yaml is for another workload than plan.json: {'; '.join(differing)}; "
                f"change it back or plan again: {self.replan_command(self.world_size, folder)}"
            )

    def check_world_size(self, world_size: int, folder: Path) -> None:
        """Refuse another number of processes than planned.

        Raises:
            ConfigError: with the command that plans for the given number.
        """
        if world_size != self.world_size:
            raise ConfigError(
                f"{world_size} process(es) were started, the plan has {self.world_size}; "
                f"start {self.world_size}, or plan again: {self.replan_command(world_size, folder)}"
            )

    def replan_command(self, world_size: int, folder: Path) -> str:
        """The `toolkit plan` line for the recipe in `folder` on another number of ranks of the same kind."""
        cluster = self.cluster.name if world_size == self.world_size else f"{world_size}x{self.cluster.device.name}"
        words = ["toolkit", "plan", "--recipe", str(folder / "recipe.yaml"), "--cluster", cluster]
        words += self.fixed.options()
        if self.gradient_clipping != 1.0:
            words += ["--gradient-clipping", str(self.gradient_clipping)]
        return shlex.join([*words, "-o", str(folder), "--overwrite"])

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read plan.json.

        Raises:
            ConfigError: missing, damaged or of another version.
        """
        try:
            return super().load(path)
        except SpecError as error:
            raise ConfigError(f"{error}\nMake the plan again with `toolkit plan ... -o {Path(path).parent}`") from None

    def save(self, path: Path) -> None:
        """Write plan.json, readable and ending in a newline."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
