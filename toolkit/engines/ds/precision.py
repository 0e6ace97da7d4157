"""What ds_config.json says about the width of numbers: which of its sections is on, and what of them cannot be."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import FP16_NEEDS_MASTER, Mixed, Precision

LEAST_RATE = 1e-5
"""Below it AdamW moves few weights in bf16, and the loss comes to rest early: one in seven moves at this rate."""
_BF16 = ("bfloat16", "bf16")


class _Switch(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    enabled: StrictBool = False


class Bf16(_Switch):
    """`bf16`: weights and gradients are rounded."""

    bf16_master_weights_and_grads: StrictBool = False
    bf16_optimizer_states: StrictBool = False


class Fp16(_Switch):
    """`fp16`: the same, and the loss is scaled."""

    loss_scale: float = Field(default=0.0, ge=0, strict=True, allow_inf_nan=False)
    fp16_master_weights_and_grads: StrictBool = False


class Autocast(_Switch):
    """`torch_autocast`: weights are not rounded, the forward pass runs within torch.autocast."""

    dtype: str | None = None


class Numbers(BaseModel):
    """All of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    bf16: Bf16 = Bf16()
    fp16: Fp16 = Fp16()
    torch_autocast: Autocast = Autocast()

    @property
    def precision(self) -> Precision:
        """Of matrix products and activations."""
        if self.bf16.enabled or self.torch_autocast.enabled:
            return "bf16"
        return "fp16" if self.fp16.enabled else "fp32"

    @property
    def mixed(self) -> Mixed:
        """What is fp32 beside 16 bits."""
        if self.torch_autocast.enabled:
            return "autocast"
        return "none" if self.bf16.bf16_master_weights_and_grads else "master"

    @property
    def rounds_weights(self) -> bool:
        """The model's weights are 16 bits wide."""
        return self.bf16.enabled or self.fp16.enabled

    @property
    def has_static_scale(self) -> bool:
        """In fp16: the loss scale is a number that stays; else it follows the overflows."""
        return self.fp16.enabled and self.fp16.loss_scale > 0

    def autocast(self, device: torch.device) -> torch.autocast:
        """What the forward pass runs in, for those that DeepSpeed's engine has no part in.

        To be entered anew for each: it keeps the rounded weights until it is left.
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.torch_autocast.enabled)

    def contradictions(self, plan: Plan, *, stage: int, offloads: bool) -> Iterator[str]:
        """What DeepSpeed would refuse without a word of why, or do wrong."""
        sections: dict[Literal["bf16", "fp16", "torch_autocast"], _Switch]
        sections = {"bf16": self.bf16, "fp16": self.fp16, "torch_autocast": self.torch_autocast}
        if len(on := [f"`{name}`" for name, section in sections.items() if section.enabled]) > 1:
            yield f"{' and '.join(on)} are both enabled; keep one of them"
            return
        both = self.bf16.bf16_master_weights_and_grads, self.bf16.bf16_optimizer_states
        if any(both) and not (all(both) and self.bf16.enabled):
            names = "`bf16_master_weights_and_grads` and `bf16_optimizer_states`"
            yield f"{names} of `bf16` go together, and with `enabled`; set all three, or neither of the two"
        elif self.mixed != plan.workload.mixed:
            yield (
                f"`bf16` and `torch_autocast` make it mixed={self.mixed}, the plan has mixed={plan.workload.mixed}; "
                f"plan again with --mixed {self.mixed}"
            )
        if self.fp16.fp16_master_weights_and_grads:
            yield "`fp16.fp16_master_weights_and_grads` is true, states are fp32 with fp16; remove it"
        if self.torch_autocast.enabled and self.torch_autocast.dtype not in _BF16:
            # Its GradScaler divides the gradients after they have been clipped: measured, a norm 65536 times as large
            # and a loss off by 0.1 after 20 steps. Without a dtype CUDA takes fp16.
            yield f"`torch_autocast.dtype` is {self.torch_autocast.dtype}, {FP16_NEEDS_MASTER}; use bfloat16"
        if self.mixed == "none" and (stage == 0 or offloads):
            yield "`bf16.bf16_optimizer_states` goes with ZeRO stage 1, 2 or 3 and without `offload_optimizer`"

    def notes(self, recipe: Recipe) -> Iterator[str]:
        """What is worth telling at the start."""
        if self.has_static_scale:
            yield (
                f"fp16: the loss scale stays at {self.fp16.loss_scale:g}; a step whose gradients overflow is left out, "
                f"{recipe.faults.max_bad_steps} in a row end the run"
            )
        if self.mixed == "none":
            rate = recipe.optimizer.learning_rate
            warning = "WARNING: " if rate < LEAST_RATE else ""
            # bf16 has 8 significant bits: a number moves by 1/256 of itself, or by nothing if that is less than half.
            yield (
                f"{warning}no fp32 beside bf16: at learning_rate {rate:g} weights above {512 * rate:.2g} do not move, "
                f"as each update is rounded away; below {LEAST_RATE:g} the loss stands still early: use mixed=master"
            )
