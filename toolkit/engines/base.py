"""What every engine can do; the training loop, evaluation and export know nothing else about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Batch = Mapping[str, torch.Tensor]
"""`input_ids`, `attention_mask` and `labels`, each int64 [micro_batch, seq]; label -100 is not supervised."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, equal on all ranks."""

    loss: float
    """Mean cross-entropy over all supervised tokens of the global batch, in nats."""
    grad_norm: float
    """Global L2 norm of the gradients before clipping."""
    tokens: int
    """Tokens of the global batch without padding."""
    supervised_tokens: int
    """Tokens whose prediction counts in the loss."""
    loss_scale: float
    """Factor on the loss in fp16, 1.0 otherwise."""
    skipped: bool
    """True if the gradients overflowed in fp16 and the weights stayed as they were."""


class Engine(Protocol):
    """A prepared model on this rank. Every method is a collective: all ranks call it, in the same order."""

    rank: int
    """Global rank, 0 .. world_size - 1."""
    world_size: int
    """Number of ranks."""
    data_rank: int
    """Which share of the global batch this rank trains on, 0 .. dp - 1."""
    device: torch.device
    """Where batches go; `train_step` moves them."""
    notes: tuple[str, ...]
    """What was decided at start and is worth telling, one sentence each."""

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """One optimizer step over this rank's `grad_accum` micro-batches."""

    def eval_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy over all supervised tokens of all ranks' batches; no gradients."""

    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers (new tokens only) to this rank's left-padded prompts, in order."""

    def gather(self, value: Any) -> list[Any]:
        """The picklable `value` of every rank, in rank order, on every rank."""

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and whole weights in CPU memory, one after the other; only rank 0 gets any."""

    def close(self) -> None:
        """Leave the process group."""
