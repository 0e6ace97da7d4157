"""The loss of a micro-batch, as a sum: whatever ranks and micro-batches it is divided over, sums add up."""

import torch
from deepspeed.module_inject.layers import VocabParallelLinear
from deepspeed.sequence.cross_entropy import vocab_parallel_cross_entropy
from torch.nn.functional import cross_entropy

from toolkit.engines.common.labels import IGNORED


def loss_factor(supervised: torch.Tensor, *, averaged_over: int) -> torch.Tensor:
    """What the sum of a micro-batch is multiplied by, in fp32.

    DeepSpeed averages over micro-batches and over ranks. That is undone, so that those with more supervised tokens
    weigh more, as in one batch: what it averages then is the mean over all supervised tokens.

    Args:
        supervised: tokens that count in the whole global batch.
        averaged_over: micro-batches of a step, of all ranks that DeepSpeed averages over.
    """
    return (averaged_over / supervised.clamp(min=1)).float()


def loss_sum(logits: torch.Tensor, wanted: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens, in fp32.

    Args:
        logits: [batch, seq, vocabulary], or this rank's part of the vocabulary.
        wanted: [batch, seq] as `next_tokens` gives it.
        head: the layer that the logits come from.
    """
    rows, targets = logits.float().flatten(0, 1), wanted.flatten()
    if not isinstance(head, VocabParallelLinear):
        return cross_entropy(rows, targets, ignore_index=IGNORED, reduction="sum")
    loss: torch.Tensor = vocab_parallel_cross_entropy(
        rows,
        targets,
        tp_group=head.mp_group,
        vocab_start_index=head.vocab_start_index,
        vocab_end_index=head.vocab_end_index,
        # Given, so that the bounds are not checked by a collective at every call.
        global_vocab_size=head.vocab_size,
        ignore_index=IGNORED,
        reduction="sum",
    )
    return loss
