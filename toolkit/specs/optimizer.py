"""The optimizer, as the recipe has it."""

from pydantic import Field

from toolkit.specs.base import Spec


class ParameterGroup(Spec):
    """Tensors that are trained differently from the rest."""

    match: str = Field(min_length=1)
    """Names of the model's tensors, with * and ?: `*embed_tokens.weight`, `*layers.3.*`, `*lora_B*`. The first group
    that matches a tensor takes it."""
    learning_rate_ratio: float = Field(default=1.0, ge=0)
    """Part of the schedule's rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """In the place of the optimizer's."""


class OptimizerConfig(Spec):
    """AdamW; which implementation runs is chosen by what the machine can build."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate, reached at the end of the warm-up."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; of matrices, not of norms, biases and embeddings."""
    decay_all: bool = False
    """Let norms, biases and embeddings decay too."""
    groups: tuple[ParameterGroup, ...] = ()
    """Tensors with a learning rate or weight decay of their own."""
