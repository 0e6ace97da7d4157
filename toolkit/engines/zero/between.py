"""What replicas send each other, where the recipe has it otherwise than DeepSpeed: which way, and what goes with it."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from toolkit.engines.ds.config import DsConfig
from toolkit.engines.ds.updates import Updates
from toolkit.engines.zero.exchange import Exchange
from toolkit.engines.zero.local_sgd import Rounds
from toolkit.planner.plan import Plan
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.optimizer import OPTIMIZERS
from toolkit.specs.recipe import Recipe


class Between(Protocol):
    """Takes the place of DeepSpeed's all-reduce of the gradients. Every method is a collective."""

    alone: bool
    """Replicas take steps on their own rows alone."""

    def reduce(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Put what the update is made of in their place, and give their norm: the same on all ranks.

        Where any of them is no number the norm is none either, and nothing of it stays for a later step.

        Args:
            gradients: of the same tensors in the same order on every rank, before clipping.
        """

    def after_step(self, *, skipped: bool) -> None:
        """After the update, or after it was left out."""

    def settle(self) -> None:
        """Give all replicas the same weights."""

    def before_saving(self) -> None:
        """Leave nothing that a checkpoint does not hold: a run that goes on from it must not differ."""

    def begin_anew(self, num_updates: int) -> None:
        """Go on from the weights that were just read, with so many updates behind; they stay as they are."""

    def take_sent_bytes(self) -> float:
        """What each rank has sent since it was last asked, as in a ring of them."""


def between_replicas(config: CommunicationConfig, updates: Updates) -> Between | None:
    """What the recipe asks for; None where DeepSpeed does it."""
    if config.is_plain:
        return None
    if config.local_steps == 1:
        return Exchange(config)
    rounds = Rounds(config, updates.keeper, updates.moments[0], max_norm=updates.prepared.max_norm)
    updates.moments.append(rounds)
    updates.norm_after = rounds.clipped_norm
    return rounds


def rounds_notes(recipe: Recipe) -> tuple[str, ...]:
    """What ends rounds of local steps before their time, if anything does by the recipe."""
    steps = recipe.communication.local_steps
    readers = {
        "evaluation.every_steps": recipe.evaluation.every_steps,
        "checkpoint.every_steps": recipe.checkpoint.every_steps,
        "faults.compare_every": recipe.faults.compare_every,
    }
    early = [f"{name} {every}" for name, every in readers.items() if every is not None and every % steps]
    if not early:
        return ()
    return (f"local steps: rounds of {steps} end early at {' and '.join(early)}; multiples of {steps} end none",)


def check_communication(recipe: Recipe, plan: Plan, config: DsConfig) -> None:
    """Refuse what does not go together, before any process waits for another.

    Raises:
        ConfigError: with all that is wrong.
    """
    plan.check_communication(recipe.communication, zero_stage=config.zero_stage, others=_faults(recipe, config))
    plan.check_recipe(recipe, zero_stage=config.zero_stage)


def _faults(recipe: Recipe, config: DsConfig) -> Iterator[str]:
    asked, optimizer = recipe.communication, recipe.workload.optimizer
    if asked.is_plain:
        return
    if config.numbers.precision == "fp16":
        yield "what is left for a later step has another loss scale by then; use precision bf16 or fp32"
    if asked.compression in ("fp16", "bf16") and config.numbers.rounds_weights:
        yield f"{asked.compression} halves fp32, gradients are {config.numbers.precision}; use powersgd or topk"
    if asked.local_steps > 1 and recipe.clipping.kind != "norm":
        yield f"clipping {recipe.clipping.kind} is by what all replicas share, local_steps shares nothing; use norm"
    if asked.local_steps > 1 and (OPTIMIZERS[optimizer].whole or OPTIMIZERS[optimizer].library == "bitsandbytes"):
        yield f"local_steps takes the mean of moments per number, {optimizer} has none; use adamw, lion or sgd"
