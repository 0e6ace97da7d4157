"""Cross-entropy straight from hidden states: of the logits only a block of columns exists at a time.

The blocks divide the vocabulary, not the tokens. Each row of the head then meets all tokens in one product, so that its
gradient is written once, in the weight's own type, as in plain training: blocks of tokens would have to add it up over
the blocks, which costs a copy of the head in fp32 or the digits that its type does not have. Only the gradient of the
hidden states is added up, in fp32.

The backward pass computes each block again. It knows the gradient of the loss, so a loss scale is applied before
anything is rounded to fp16, and it runs only where there is a backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import ColumnParallel, VocabParallelLinear
from torch.autograd.function import once_differentiable

from toolkit.specs.workload import loss_block


def chunked_loss_sum(hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens, in fp32.

    Args:
        hidden: of those tokens, [supervised, hidden size].
        targets: [supervised].
        head: a linear layer without bias, or this rank's part of one that is divided by vocabulary.
    """
    group = None
    if isinstance(head, VocabParallelLinear) and dist.get_world_size(head.mp_group) > 1 and len(targets):
        group, targets = head.mp_group, targets - head.vocab_start_index
        hidden = ColumnParallel.apply(group, hidden)
    loss: torch.Tensor
    loss, _ = _BlockwiseLoss.apply(hidden, head.weight, _Wanted(targets, group))  # type: ignore[no-untyped-call]
    return loss


@contextmanager
def loss_for_logits(head: Any, targets: torch.Tensor) -> Iterator[None]:
    """For as long as the context lasts, the head of a model gives `chunked_loss_sum` in the place of logits.

    The loss is computed inside the head's own call, so that whatever surrounds it (ZeRO-3 gathers its weight before,
    for the backward pass too, and lets go of it afterwards) surrounds the loss.
    """
    head.forward = lambda hidden: chunked_loss_sum(hidden, targets, head)
    try:
        yield
    finally:
        del head.forward  # back to that of its class


class _Wanted(NamedTuple):
    """Which logit of each row is asked for."""

    columns: torch.Tensor
    """Int64 [rows]; another rank's where it is none of this one's."""
    group: dist.ProcessGroup | None
    """The ranks that divide the columns."""


class _BlockwiseLoss(torch.autograd.Function):
    """Sum of -log softmax(hidden @ weight.T)[wanted] over the rows."""

    @staticmethod
    def forward(hidden: torch.Tensor, weight: torch.Tensor, wanted: _Wanted) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the exponentials up block by block, relative to the largest logit so far.

        Args:
            hidden: [rows, hidden size].
            weight: [columns, hidden size].
            wanted: of each row.

        Returns:
            The loss, and the logarithm of each row's sum of exponentials, both in fp32.
        """
        largest = torch.full((len(hidden),), -torch.inf, device=hidden.device)
        total, asked = torch.zeros_like(largest), torch.zeros_like(largest)
        for low, high in _blocks(hidden, weight):
            logits = (hidden @ weight[low:high].t()).float()
            column, here = _places(wanted.columns, low, high)
            asked += torch.where(here, logits.gather(1, column)[:, 0], 0.0)
            before, largest = largest, torch.maximum(largest, logits.amax(1))
            total *= (before - largest).exp_()
            total += logits.sub_(largest[:, None]).exp_().sum(1)
            del logits  # before the next block: two would be there at once
        if wanted.group is not None:
            before = largest.clone()
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=wanted.group)
            summed = torch.stack([total * (before - largest).exp_(), asked])
            dist.all_reduce(summed, group=wanted.group)
            total, asked = summed
        normaliser = largest + total.log()
        return (normaliser - asked).sum(), normaliser

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Keep what the backward pass computes the blocks from."""
        hidden, weight, wanted = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(hidden, weight, wanted.columns, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """The gradient of a logit is its probability, less 1 for the target's.

        Args:
            ctx: of the forward pass.
            gradient: of the loss.
        """
        hidden, weight, columns, normaliser = ctx.saved_tensors
        of_hidden = torch.zeros(hidden.shape, device=hidden.device) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for low, high in _blocks(hidden, weight):
            logits = (hidden @ weight[low:high].t()).float()
            column, here = _places(columns, low, high)
            logits.sub_(normaliser[:, None]).exp_()
            logits.scatter_add_(1, column, -here[:, None].float())
            of_logits = logits.mul_(gradient).to(hidden.dtype)
            del logits
            if of_hidden is not None:
                of_hidden += of_logits @ weight[low:high]
            if of_weight is not None:
                torch.mm(of_logits.t(), hidden, out=of_weight[low:high])
            del of_logits
        return None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight, None


def _blocks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[int, int]]:
    """First and last column of each block."""
    size = loss_block(len(hidden), len(weight))
    for low in range(0, len(weight), size):
        yield low, min(low + size, len(weight))


def _places(targets: torch.Tensor, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's target as a column of a block, int64 [rows, 1], and where it is one."""
    return (targets - low).clamp(0, high - low - 1)[:, None], (targets >= low) & (targets < high)
