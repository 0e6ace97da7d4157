"""What one optimizer step has to do: the part of a run that a plan is made for."""

from typing import Literal

from pydantic import Field

from toolkit.specs.base import Spec

Precision = Literal["fp32", "bf16", "fp16"]

PRECISION_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of one weight or activation in the forward and backward pass."""


AttentionKind = Literal["sdpa", "eager", "flash_attention_2"]
LossKind = Literal["full", "chunked"]
LOSS_BLOCK_NUMBERS, LOSS_BLOCK_COLUMNS = 2**24, 1024
"""Logits that a chunked loss computes at once, and the fewest columns of them: large enough for a matrix product to run
at full speed, small beside all that a step holds (64 MiB in fp32)."""


def loss_block(tokens: int, vocab: int) -> int:
    """Columns of logits that a chunked loss computes at once; engine and planner count with the same.

    Args:
        tokens: rows of the logits.
        vocab: columns of all logits, or of a rank's part of them.
    """
    return min(vocab, max(LOSS_BLOCK_COLUMNS, LOSS_BLOCK_NUMBERS // max(tokens, 1)))


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
    loss: LossKind = "full"
    """`full` computes all logits at once, `chunked` a block of columns at a time, twice: less memory, the same loss."""
    attention: AttentionKind = "sdpa"
    """`sdpa` is torch's own kernels, `eager` keeps all scores, `flash_attention_2` needs flash-attn and a GPU."""
    compile: bool = False
    """Let torch compile the decoder layers: minutes at the start, faster steps."""
