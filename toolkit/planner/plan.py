"""The Plan: every decision of a run, resolved, and the reasons; the only thing that crosses to the cluster half."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field
from typing_extensions import Self

from toolkit.errors import ConfigError, SpecError
from toolkit.planner.buckets import trainable_params
from toolkit.planner.estimates import MemoryEstimate, TimeEstimate
from toolkit.planner.forecast import Forecast
from toolkit.planner.megatron_launch import launch_faults, launch_values
from toolkit.planner.megatron_limits import recipe_gaps
from toolkit.planner.offer import Offer
from toolkit.planner.request import Fixed
from toolkit.planner.strategy import Strategy
from toolkit.planner.unequal_shares import balance_gaps
from toolkit.planner.zero_plus_plus import zero_plus_plus_faults
from toolkit.specs.base import Spec
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.communication import ENGINES_OWN, CommunicationConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload
from toolkit.specs.zero_plus_plus import ZeroPlusPlus

PLAN_VERSION: Literal[2] = 2

Objective = Literal["fastest", "least-memory", "cheapest", "fewest-gpus", "balanced"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
READ_AS: dict[str, Objective] = {"time": "fastest", "cost": "cheapest", "balance": "balanced"}
"""What people also type for an objective; plans and messages have the objective's own word (decision 31)."""


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
    knob: str = ""
    """The cheapest change that would make it run."""


class Plan(Spec):
    """A resolved run: what was asked, what was chosen, why, and what lost."""

    version: Literal[2] = PLAN_VERSION
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
    communication: CommunicationConfig = Field(default=ENGINES_OWN, exclude_if=lambda told: told == ENGINES_OWN)
    """What replicas send each other, as the recipe has it; the predicted time counts with it."""
    offers: tuple[Offer, ...] = Field(default=(), exclude_if=lambda told: not told)
    """On slow links between nodes: what would send less, most gain first."""
    objective: Objective = "fastest"
    """What the choice is best at among all that fit."""
    stage_memory: tuple[MemoryEstimate, ...] = ()
    """Peak memory of the choice per pipeline stage; empty with one stage."""
    forecast: Forecast | None = Field(default=None, exclude_if=lambda told: told is None)
    """Money and time of the whole run; none where the cluster has no price."""
    alternatives: tuple[Candidate, ...] = ()
    """The next best strategies that fit, best first."""
    pareto: tuple[Candidate, ...] = ()
    """Strategies that nothing of the same engine beats in both step time and memory, fastest first."""
    rejected: tuple[Rejection, ...] = ()
    """Strategies that do not run, with their reasons."""
    judged: int = 0
    """Strategies that the search looked at."""
    rejections: dict[str, int] = Field(default_factory=dict)
    """How many of them fell to which kind of reason."""

    @property
    def world_size(self) -> int:
        """Number of ranks that the run must have."""
        return self.strategy.layout.world_size

    @property
    def trainable_params(self) -> int:
        """Number of weights that get a gradient, as counted for the memory; DoRA's magnitudes are not among them."""
        return trainable_params(self.model, self.workload)

    @property
    def tokens_per_step(self) -> int:
        """Upper bound of tokens per optimizer step: global_batch x seq_len."""
        return self.workload.global_batch * self.workload.seq_len

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Predicted throughput of one device at full sequences."""
        return self.tokens_per_step / self.time.step_seconds / self.world_size

    @property
    def cost_per_billion_tokens(self) -> float | None:
        """Predicted price of 10^9 tokens, where the cluster has a price per GPU-hour, in that currency."""
        if self.cluster.price_per_gpu_hour is None:
            return None
        return price_of_tokens(self.cluster.price_per_gpu_hour, self.tokens_per_second_per_gpu)

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

    def sending_faults(self, asked: ZeroPlusPlus, *, zero_stage: int) -> list[str]:
        """What is against sending weights and gradients as asked, in a run at that stage."""
        return list(
            zero_plus_plus_faults(
                asked,
                self.model,
                self.cluster,
                workload=self.workload,
                strategy=self.strategy,
                zero_stage=zero_stage,
            )
        )

    def check_communication(
        self, asked: CommunicationConfig, *, zero_stage: int | None = None, others: Iterable[str] = ()
    ) -> None:
        """Refuse a recipe that wants gradients or weights sent in a way that this layout has no place for.

        Args:
            asked: of the recipe.
            zero_stage: the one that runs; None where it is not known yet: people edit ds_config.json.
            others: what else the caller has found to be wrong.

        Raises:
            ConfigError: with all that is wrong.
        """
        if found := [*self._communication_faults(asked, zero_stage=zero_stage), *others]:
            raise ConfigError("\n".join(f"communication: {fault}" for fault in found))

    def _communication_faults(self, asked: CommunicationConfig, *, zero_stage: int | None) -> Iterator[str]:
        """Why the layout has no place for it, one sentence each."""
        strategy = self.strategy
        if asked.is_plain:
            return
        if strategy.engine != "zero":
            needs = "it is for engine zero, which keeps the model whole on every rank"
            yield f"{needs}; the plan has engine {strategy.engine}; plan again with --engine zero --zero 0"
            return
        if zero_stage:
            # Stages 1 to 3 give each rank a part of the gradients; what is sent is theirs to decide.
            yield f"it is for whole gradients on every rank, zero_stage is {zero_stage}; plan again with --zero 0"
        if strategy.layout.dp != self.world_size:
            yield f"it is between replicas of one rank, the plan has {strategy.words}; plan again with --tp 1 --sp 1"

    def recipe_faults(self, recipe: Recipe) -> list[str]:
        """What the recipe asks for that the plan's engine does not do, whatever the layout, one sentence each."""
        return list(recipe_gaps(recipe)) if self.strategy.engine == "mcore" else []

    def balance_faults(self, recipe: Recipe, *, zero_stage: int | None = None) -> list[str]:
        """Why replicas cannot have shares of their own in this run, asked for or not, one sentence each.

        Args:
            recipe: of the run.
            zero_stage: as of `check_communication`.
        """
        return list(balance_gaps(recipe, self.strategy, zero_stage=zero_stage))

    def check_recipe(self, recipe: Recipe, *, zero_stage: int | None = None) -> None:
        """Refuse a recipe that asks for what the plan's engine does not do.

        Args:
            recipe: of the run.
            zero_stage: as of `check_communication`.

        Raises:
            ConfigError: with all of it.
        """
        found = self.recipe_faults(recipe)
        found[-1:] = [f"{last}; or plan again with --engine zero" for last in found[-1:]]
        if recipe.monitoring.balance:
            found += [f"monitoring.balance: {gap}" for gap in self.balance_faults(recipe, zero_stage=zero_stage)]
        if found:
            raise ConfigError("\n".join(found))

    def check_ranks(self, environment: Mapping[str, str], folder: Path) -> None:
        """Refuse to be one of other ranks than planned, by what the launcher has told this one.

        Raises:
            ConfigError: as `check_world_size` and `check_launcher`.
        """
        self.check_world_size(int(environment.get("WORLD_SIZE", "1")), folder)
        self.check_launcher(environment)

    def check_launcher(self, environment: Mapping[str, str]) -> None:
        """Refuse ranks that accelerate has started as Megatron's with other values than the plan's.

        Raises:
            ConfigError: naming each value that differs; accelerate.yaml was changed, or `accelerate launch` was given
                other options.
        """
        planned = launch_values(self.strategy, gradient_clipping=self.gradient_clipping)
        if self.strategy.engine == "mcore" and (differing := list(launch_faults(planned, environment))):
            raise ConfigError(
                f"accelerate launches another run than plan.json: {'; '.join(differing)}; change it back in "
                "accelerate.yaml or among the options of `accelerate launch`, or plan again"
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

    def replan_command(self, world_size: int, folder: Path, *, fixed: Fixed | None = None) -> str:
        """The `toolkit plan` line for the recipe in `folder` on another number of ranks of the same kind.

        Args:
            world_size: ranks.
            folder: of the run.
            fixed: decisions in the place of those that the user has made.
        """
        cluster = self.cluster.name if world_size == self.world_size else f"{world_size}x{self.cluster.device.name}"
        words = ["toolkit", "plan", "--recipe", str(folder / "recipe.yaml"), "--cluster", cluster]
        words += (fixed or self.fixed).options()
        if self.objective != "fastest":
            words += ["--objective", self.objective]
        if self.cluster.price_per_gpu_hour is not None:
            words += ["--price", str(self.cluster.price_per_gpu_hour)]
        if (spot := self.cluster.spot) is not None:
            words += ["--spot-price", str(spot.price_per_gpu_hour)]
            words += ["--spot-interruptions", str(spot.interruptions_per_node_day)]
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


def price_of_tokens(price_per_gpu_hour: float, tokens_per_second_per_gpu: float) -> float:
    """Price of 10^9 tokens in the currency of a GPU-hour's."""
    return price_per_gpu_hour / 3600 * 1e9 / tokens_per_second_per_gpu
