"""What replicas send each other, where the recipe has it otherwise than DeepSpeed: which way, and what goes with it."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from toolkit.engines.ds.config import DsConfig
from toolkit.engines.ds.updates import Updates
from toolkit.engines.zero.exchange import Exchange
from toolkit.engines.zero.local_sgd import Rounds
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.optimizer import OPTIMIZERS
from toolkit.specs.recipe import Recipe


class Between(Protocol):
    """Takes the place of DeepSpeed's all-reduce of the gradients. Every method is a collective."""

    alone: bool
    """Replicas take steps on their own rows alone."""
    sent_bytes: float
    """Of the last step, per rank, as in a ring of them."""

    def reduce(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Put what the update is made of in their place, and give their norm: the same on all ranks.

        Args:
            gradients: of the same tensors in the same order on every rank, before clipping.
        """

    def after_step(self) -> None:
        """After the update."""

    def settle(self) -> None:
        """Give all replicas the same weights."""

    def begin_anew(self) -> None:
        """Leave nothing that a checkpoint does not hold: a run that goes on from it must not differ."""


def between_replicas(config: CommunicationConfig, updates: Updates) -> Between | None:
    """What the recipe asks for; None where DeepSpeed does it."""
    if config.is_plain:
        return None
    if config.local_steps == 1:
        return Exchange(config)
    rounds = Rounds(config, updates.keeper, updates.moments[0], max_norm=updates.max_norm)
    updates.moments.append(rounds)
    return rounds


def check_communication(recipe: Recipe, plan: Plan, config: DsConfig) -> None:
    """Refuse what does not go together, before any process waits for another.

    Raises:
        ConfigError: with all that is wrong.
    """
    if not recipe.communication.is_plain and (found := list(_faults(recipe, plan, config))):
        raise ConfigError("\n".join(f"communication: {fault}" for fault in found))


def _faults(recipe: Recipe, plan: Plan, config: DsConfig) -> Iterator[str]:
    asked, optimizer = recipe.communication, recipe.workload.optimizer
    if config.zero_stage != 0:
        # Stages 1 to 3 give each rank a part of the gradients; what is sent is theirs to decide.
        yield f"it is for whole gradients on every rank, zero_stage is {config.zero_stage}; plan again with --zero 0"
    if plan.strategy.layout.dp != plan.world_size:
        yield f"it is between replicas of one rank, the plan has {plan.strategy.words}; plan again with --tp 1 --sp 1"
    if config.numbers.precision == "fp16":
        yield "what is left for a later step has another loss scale by then; use precision bf16 or fp32"
    if asked.compression in ("fp16", "bf16") and config.numbers.rounds_weights:
        yield f"{asked.compression} halves fp32, gradients are {config.numbers.precision}; use powersgd or topk"
    if asked.local_steps > 1 and recipe.clipping.kind != "norm":
        yield f"clipping {recipe.clipping.kind} is by what all replicas share, local_steps shares nothing; use norm"
    if asked.local_steps > 1 and (OPTIMIZERS[optimizer].whole or OPTIMIZERS[optimizer].library == "bitsandbytes"):
        yield f"local_steps takes the mean of moments per number, {optimizer} has none; use adamw, lion or sgd"
