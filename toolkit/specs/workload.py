"""What one optimizer step has to do: the part of a run that a plan is made for."""

from typing import Literal

from pydantic import Field

from toolkit.specs.base import Spec
from toolkit.specs.optimizer import OptimizerName

Precision = Literal["fp32", "bf16", "fp16"]

PRECISION_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of one weight or activation in the forward and backward pass."""


class Workload(Spec):
    """Sequence length, global batch and method; a plan made for another workload is refused at start."""

    seq_len: int = Field(gt=0)
    """Longest sequence in tokens; longer samples are cut."""
    global_batch: int = Field(gt=0)
    """Samples per optimizer step over all ranks and accumulation steps."""
    method: Literal["full", "lora", "qlora"] = "full"
    """`full` trains every weight, `lora` low-rank adapters on frozen weights, `qlora` the same on 4-bit weights."""
    lora_rank: int = Field(default=16, gt=0)
    """Rank of the LoRA adapters; counts with `lora` and `qlora` only."""
    precision: Precision = "bf16"
    """fp32, bf16 or fp16; with bf16 and fp16 the optimizer keeps fp32 master weights."""
    optimizer: OptimizerName = "adamw"
    """adamw, adamw_8bit, paged_adamw, paged_adamw_8bit, lion, sgd, adafactor, muon or soap; decides memory and engine.
    """
