"""What replicas send each other over a slow link, as the recipe has it."""

import math
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec

Compression = Literal["none", "fp16", "bf16", "powersgd", "topk"]

_OF: dict[str, tuple[Compression, ...]] = {
    "rank": ("powersgd",),
    "ratio": ("topk",),
    "full_steps": ("powersgd", "topk"),
}
"""Which ways of compression look at an option; the others refuse a value that is not its default."""
_ONCE = {"rank": 4, "full_steps": 0}
"""Defaults of before, which recipes that were written out hold whether anything looks at them or not."""
_THIN = 1.5
"""Columns of PowerSGD's thin matrices over the square root of the matrix's shorter side, where none are given."""
_AT_LEAST = 16
"""Columns that matrices get which are more than four times as wide: gradients of small ones are less of low rank."""
_WORTH = 2
"""PowerSGD sends a matrix whole that it would not make smaller than by this (torch: `min_compression_rate`)."""


def thin_columns(rows: float, columns: float, rank: int | None) -> int:
    """Of PowerSGD's two thin matrices for one of that shape; 0 where it is sent whole.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        rank: that was asked for; None takes one by the size.
    """
    shorter = int(min(rows, columns))
    by_size = max(round(_THIN * math.sqrt(shorter)), min(_AT_LEAST, (shorter - 1) // 4))
    thin = min(by_size if rank is None else rank, shorter)
    return thin if (rows + columns) * thin * _WORTH < rows * columns else 0


class CommunicationConfig(Spec):
    """Gradients sent in fewer bytes, or weights sent now and then instead of gradients; with ZeRO-0 alone."""

    compression: Compression = "none"
    """`fp16`, `bf16`: half of fp32; `powersgd`: two thin matrices per matrix (1905.13727); `topk`: the largest numbers
    alone. What the last two leave out is added to the next step's gradients (error feedback)."""
    rank: int | None = Field(default=None, gt=0)
    """Of `powersgd`: columns of the thin matrices; by default by the size of each matrix, 24 of 256 x 256."""
    ratio: float = Field(default=0.01, gt=0, lt=1)
    """Of `topk`: part of the numbers that is sent."""
    full_steps: int = Field(default=0, ge=0)
    """Of `powersgd` and `topk`: optimizer steps at the start of the run that send whole gradients.
    What is left out of the first ones costs most; torch advises a tenth of the run, and no fewer than the warm-up."""
    local_steps: int = Field(default=1, gt=0)
    """Optimizer steps that each replica takes on its own rows before all take the mean of their weights (local SGD,
    1805.09767); 1 is synchronous training."""
    outer_learning_rate: float = Field(default=1.0, gt=0)
    """Of what the replicas have moved by on average, the part that is applied (DiLoCo, 2311.08105: 0.7)."""
    outer_momentum: float = Field(default=0.0, ge=0, lt=1)
    """Nesterov momentum of that outer step (DiLoCo: 0.9)."""
    quantized_weights: bool = False
    """ZeRO-3 on CUDA: gather weights in 8 bits (ZeRO++, 2306.10209)."""
    quantized_gradients: bool = False
    """ZeRO-3 on CUDA, fp16, several nodes: send gradients in 4 bits (ZeRO++)."""
    hpz_partition_size: int = Field(default=1, gt=0)
    """ZeRO-3 on CUDA: so many neighbours hold the weights a second time between them and gather them there (ZeRO++)."""

    @property
    def is_plain(self) -> bool:
        """The engine's own all-reduce of gradients at every step."""
        return self.compression == "none" and self.local_steps == 1

    @model_validator(mode="before")
    @classmethod
    def _written_before(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        unseen = {name for name in _ONCE if given.get("compression") not in _OF[name]}
        return {name: value for name, value in given.items() if name not in unseen or value != _ONCE[name]}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, kinds in _OF.items():
            if self.compression not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                of = f"{name} is of compression {' or '.join(kinds)}"
                raise ValueError(f"{of}, compression is {self.compression}; leave it out")
        if self.local_steps > 1 and self.compression != "none":
            raise ValueError(f"local_steps={self.local_steps} sends no gradients to compress; use one of the two")
        if self.local_steps == 1 and (self.outer_learning_rate != 1 or self.outer_momentum):
            raise ValueError("outer_learning_rate and outer_momentum are of local_steps above 1; leave them out")
        return self


ENGINES_OWN = CommunicationConfig()
"""What an engine does where nobody asks for anything else."""
