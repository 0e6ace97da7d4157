"""Megatron's schedules over this rank's chunks: forward and backward, or forward alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from toolkit.engines.common.labels import IGNORED
from toolkit.engines.mcore.batches import Tokens
from toolkit.engines.mcore.place import Place


class Passes:
    """Runs micro-batches through the stages.

    Args:
        chunks: of this rank, with buffers for gradients.
        config: Megatron's, which gets the functions that its schedules call.
        place: of this rank.
        scale: what a loss is multiplied by before its backward pass, in fp16.
    """

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        config: TransformerConfig,
        place: Place,
        scale: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self._chunks, self._config, self._place = list(chunks), config, place
        config.grad_scale_func = scale
        config.finalize_model_grads_func = _finalize
        no_sync = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]

    def train(self, micro_batches: Sequence[Tokens], factor: torch.Tensor) -> torch.Tensor:
        """Forward and backward; gradients of the losses' sum times `factor`, summed over all ranks.

        Returns:
            This rank's part of the sum of the losses: float64, over all ranks it is the whole.
        """
        for chunk in self._chunks:
            chunk.train()
        return self._summed(self._run(micro_batches, partial(_loss, factor=factor), forward_only=False))

    @torch.no_grad()
    def measure(self, micro_batches: Sequence[Tokens]) -> torch.Tensor:
        """The same sum, without gradients."""
        for chunk in self._chunks:
            chunk.eval()
        # An interleaved schedule takes them in groups of as many as there are stages.
        missing = -len(micro_batches) % self._place.num_pp
        blank = replace(micro_batches[0], wanted=torch.full_like(micro_batches[0].wanted, IGNORED))
        one = torch.ones((), device=blank.wanted.device)
        return self._summed(self._run([*micro_batches, *[blank] * missing], partial(_loss, factor=one)))

    @torch.no_grad()
    def logits(self, tokens: Tokens) -> torch.Tensor | None:
        """This rank's part of the logits on the last stage: [rows, seq / cp, vocabulary / tp]; None on the others."""
        for chunk in self._chunks:
            chunk.eval()
        found = self._run([tokens] * self._place.num_pp, _logits, keep_output=True)
        return found[0] if found else None

    def _run(
        self,
        micro_batches: Sequence[Tokens],
        loss: Callable[..., Any],
        *,
        forward_only: bool = True,
        keep_output: bool = False,
    ) -> list[torch.Tensor]:
        """What `loss` gives of each micro-batch, on the last stage."""
        iterators = [iter(micro_batches) for _ in self._chunks]
        rows, width = micro_batches[0].ids.shape
        several = len(self._chunks) > 1

        def forward(tokens: Iterator[Tokens], chunk: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
            of = next(tokens)
            labels = None if keep_output else of.wanted.clamp(min=0)
            return chunk(of.ids, None, of.seen, labels=labels), partial(loss, of.wanted)

        found: list[torch.Tensor] = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iterators if several else iterators[0],
            model=self._chunks if several else self._chunks[0],
            num_microbatches=len(micro_batches),
            seq_length=width * self._place.num_cp,
            micro_batch_size=rows,
            forward_only=forward_only,
            collect_non_loss_data=keep_output,
        )
        return found

    def _summed(self, losses: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tensor-parallel ranks have the same losses, those that divide the tokens a part each."""
        if not self._place.is_last_stage or self._place.tp > 0:
            return torch.zeros((), dtype=torch.float64)
        return torch.stack([loss.double() for loss in losses]).sum()


def _loss(
    wanted: torch.Tensor, losses: torch.Tensor, *, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A micro-batch's part of the mean, its supervised tokens, and the sum of their losses.

    Args:
        wanted: [micro_batch, seq / cp].
        losses: of each token, fp32, of the same shape.
        factor: what the sum is multiplied by.
    """
    counts = wanted != IGNORED
    total = torch.where(counts, losses.float(), 0.0).sum()
    return total * factor, counts.sum().int(), total.detach()


def _logits(wanted: torch.Tensor, logits: torch.Tensor, *, non_loss_data: bool) -> torch.Tensor:
    return logits


def _finalize(model: Sequence[Any], num_tokens: torch.Tensor | None = None, **more: Any) -> None:
    """Add gradients up over the ranks. They are parts of the mean already: in fp16 a sum over tokens would overflow."""
    finalize_model_grads(list(model), None, **more)
