"""What one optimizer step has to do: the part of a run that a plan is made for."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from toolkit.specs.base import Spec


class Precision(StrEnum):
    """Number format of weights and activations in the forward and backward pass."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"

    @property
    def num_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is Precision.fp32 else 2


class Workload(Spec):
    """Sequence length, global batch and method; a plan made for another workload is refused at start."""

    seq_len: int = Field(gt=0)
    """Longest sequence in tokens; longer samples are cut."""
    global_batch: int = Field(gt=0)
    """Samples per optimizer step over all ranks and accumulation steps."""
    method: Literal["full", "lora"] = "full"
    """`full` trains every weight, `lora` trains low-rank adapters on frozen weights."""
    lora_rank: int = Field(default=16, gt=0)
    """Rank of the LoRA adapters; counts with `method: lora` only."""
    precision: Precision = Precision.bf16
    """fp32, bf16 or fp16; with bf16 and fp16 the optimizer keeps fp32 master weights."""
