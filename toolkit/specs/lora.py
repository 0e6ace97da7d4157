"""Adapters, as the recipe has them."""

import math

from pydantic import Field, field_validator

from toolkit.specs.base import Spec
from toolkit.specs.model import LINEAR_LAYERS


class LoraConfig(Spec):
    """Adapters of `workload.method: lora` and `qlora`; the rank is part of the workload."""

    alpha: float = Field(default=32.0, gt=0)
    """Scale: an adapter's output is multiplied by alpha / rank."""
    rslora: bool = False
    """Multiply it by alpha / sqrt(rank) instead, so that a high rank learns as fast as a low one (2312.03732)."""
    dora: bool = False
    """Learn the length of every row of an adapted weight apart from its direction (2402.09353); slower."""
    double_quant: bool = True
    """Of `workload.method: qlora`: quantise the scales of the 4-bit weights too."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: tuple[str, ...] = LINEAR_LAYERS
    """Names of the linear layers that get an adapter."""

    @field_validator("targets")
    @classmethod
    def _adapts_something(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets:
            raise ValueError(f"is empty, so that nothing would train; name one or more of {', '.join(LINEAR_LAYERS)}")
        return targets

    def scale(self, rank: int) -> float:
        """What an adapter's output is multiplied by."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)
