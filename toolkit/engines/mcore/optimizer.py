"""Megatron's distributed optimizer around AdamW, with the recipe's parameter groups; one step of it, taken in parts."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import USING_PYTORCH_OPTIMIZER, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamKey, ParamPredicate
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from toolkit.engines.base import Prepared
from toolkit.engines.common.groups import RATIO, set_learning_rate, settings_of
from toolkit.engines.common.tensors import words_of
from toolkit.engines.mcore.held import Held, sizes_of
from toolkit.engines.mcore.model import Llama
from toolkit.errors import SpecError
from toolkit.planner.plan import Plan
from toolkit.specs.optimizer import OptimizerConfig as Settings

_LOSS_SCALE: dict[str, Any] = {
    "initial_loss_scale": 2.0**16,
    "min_loss_scale": 1.0,
    "loss_scale_window": 1000,
    "hysteresis": 2,
}
"""In fp16: those that ds_config.json has for the other engines."""


class Stepped(NamedTuple):
    """What an update did."""

    norm: float
    """Global L2 norm of the gradients."""
    skipped: bool
    """They were not finite: the weights are as before."""


def with_gradients(chunks: Sequence[Llama], config: TransformerConfig) -> list[DistributedDataParallel]:
    """The chunks with buffers for gradients, which are summed in fp32."""
    rounded = [Float16Module(config, chunk) if config.fp16 or config.bf16 else chunk for chunk in chunks]
    asked = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    # Gradients of later chunks are ready when the backward pass ends: one bucket, as Megatron-LM has it.
    return [
        DistributedDataParallel(config, asked, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(rounded)
    ]


class Updater:
    """The optimizer of all trained tensors of this rank.

    Args:
        chunks: of `with_gradients`.
        tensors: of this rank.
        plan: precision, and the largest norm.
        settings: of the recipe.
        model: whole, for groups that names and dimensions decide.
    """

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        tensors: Sequence[Held],
        *,
        plan: Plan,
        settings: Settings,
        model: torch.nn.Module,
    ) -> None:
        self._chunks, self._tensors, self._max_norm = chunks, tensors, plan.gradient_clipping
        precision = plan.workload.precision
        config = OptimizerConfig(
            optimizer="adam",
            # Set before every step; by Megatron's own scheduler only the multipliers of its groups would act.
            lr=0.0,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.eps,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_distributed_optimizer=True,
            clip_grad=self._max_norm,
            **(_LOSS_SCALE if precision == "fp16" else {}),
        )
        overrides = _overrides(tensors, settings, model)
        chained = get_megatron_optimizer(config, list(chunks), overrides, use_gloo_process_groups=False)
        (self.distributed,) = chained.chained_optimizers
        """Megatron's, of which there is one where there are no experts."""

    @property
    def loss_scale(self) -> float:
        """Factor on the loss; 1.0 but in fp16."""
        return float(self.distributed.get_loss_scale())

    @property
    def note(self) -> str:
        """Which implementation it is."""
        which = "torch fused AdamW" if USING_PYTORCH_OPTIMIZER else type(self.distributed.optimizer).__name__
        return f"optimizer: {which} in Megatron's distributed optimizer, states divided over replicas"

    @property
    def prepared(self) -> Prepared:
        """What Megatron has made of the chunks and their optimizer."""
        gradients = words_of(part.grad_dtype for chunk in self._chunks for part in chunk.buffers)
        updated = [main for group in self.distributed.optimizer.param_groups for main in group["params"]]
        return Prepared(
            trained=sizes_of(self._tensors),
            weights=words_of(parameter.dtype for chunk in self._chunks for parameter in chunk.parameters()),
            gradients=gradients,
            sent=gradients,
            masters=words_of(main.dtype for main in updated),
            # Made in the first step, of the type of what is updated.
            moments="moments like them",
            max_norm=self.distributed.config.clip_grad,
        )

    def forget_gradients(self) -> None:
        """Before the first micro-batch of a step."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.distributed.zero_grad()

    def step(self, learning_rate: float) -> Stepped:
        """Clip and update: what Megatron's own `step` does, but that gradients which are not finite change nothing.

        Megatron looks for them where it scales the loss; in fp32 and bf16 it would write NaN into the weights.
        """
        set_learning_rate(self.distributed.param_groups, learning_rate)
        overflow = self.distributed.prepare_grads()
        norm = float(self.distributed.clip_grad_norm(self._max_norm))
        skipped = overflow or not math.isfinite(norm)
        if not skipped:
            self.distributed.step_with_ready_grads()
        return Stepped(norm, skipped)

    def clipped_norm(self, stepped: Stepped) -> float:
        """Of the gradients after clipping, by Megatron's own rule, which divides by a little more than the norm."""
        if stepped.skipped:
            return stepped.norm
        return stepped.norm * min(1.0, self._max_norm / (stepped.norm + 1e-6))


def _overrides(tensors: Sequence[Held], settings: Settings, model: torch.nn.Module) -> dict[ParamKey, Any]:
    """Weight decay and part of the learning rate, for the parameters that have them in common.

    Raises:
        SpecError: a group that takes part of what Megatron joins.
    """
    found: dict[torch.nn.Parameter, tuple[float, float]] = {}
    for held in tensors:
        if held.parameter.requires_grad:
            asked = {name: settings_of(name, model.get_parameter(name), settings) for name in held.names}
            if len(set(asked.values())) > 1:
                names = ", ".join(asked)
                raise SpecError(
                    f"optimizer.groups: {names} are one tensor of Megatron's; match all of them or none, or use "
                    "engine=zero"
                )
            found[held.parameter] = next(iter(asked.values()))
    return {
        ParamKey(predicate=_predicate(found, pair)): {"weight_decay": pair[0], RATIO: pair[1], "fused": True}
        for pair in sorted(set(found.values()))
    }


def _predicate(found: dict[torch.nn.Parameter, tuple[float, float]], pair: tuple[float, float]) -> ParamPredicate:
    return ParamPredicate(name=f"decay {pair[0]}, rate {pair[1]}", fn=lambda parameter: found.get(parameter) == pair)
