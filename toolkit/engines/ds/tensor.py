"""Tensor parallelism by DeepSpeed's AutoTP layers, put in layer by layer so that nothing whole need be in memory.

Column-parallel q, k, v, gate, up; row-parallel o and down (1909.08053, section 3); embedding and head by vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import (
    DS_IS_REPLACED_MODULE,
    LinearAllreduce,
    LinearLayer,
    VocabParallelEmbedding,
    VocabParallelLinear,
    set_autotp_mode,
)
from deepspeed.module_inject.tp_shard import AutoTPMeta

_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_ROWS = ("o_proj", "down_proj")


class TensorCuts:
    """Replaces the linear layers of a model's parts by this rank's slices of them.

    Args:
        model: the `transformers` model that the parts are of.
        group: the ranks that divide one replica's layers.
        vocab: embedding and head are divided too; each rank then sees its part of the logits.
    """

    def __init__(self, model: Any, group: dist.ProcessGroup, *, vocab: bool) -> None:
        set_autotp_mode(training=True)  # else the layers would freeze their weights
        self._model, self._group, self._vocab = model, group, vocab
        self._meta = AutoTPMeta.from_model_config(model.config)

    def cut(self, part: torch.nn.Module) -> torch.nn.Module:
        """Divide a part whose weights have been read; gives what stands in its place.

        A tied embedding is divided with its head, which must come later.
        """
        model, tied = self._model, self._model.config.tie_word_embeddings
        if part is model.lm_head and self._vocab:
            head: torch.nn.Module = VocabParallelLinear(part, self._group, tp_meta=self._meta, name="lm_head")
            if tied and model.model.embed_tokens.weight is head.weight:
                model.model.embed_tokens = self._embedding(tied_vocab_parallel_linear=head)
            model.lm_head = head
            return head
        if part is model.model.embed_tokens and self._vocab:
            model.model.embed_tokens = part if tied else self._embedding()
            kept: torch.nn.Module = model.model.embed_tokens
            return kept
        for owner in list(part.modules()):
            for name, layer in list(owner.named_children()):
                if name in _COLUMNS:
                    setattr(owner, name, LinearLayer(layer, self._group, tp_meta=self._meta, name=name))
                elif name in _ROWS:
                    setattr(owner, name, LinearAllreduce(layer, self._group, tp_meta=self._meta, name=name))
        return part

    def _embedding(self, **tied: Any) -> VocabParallelEmbedding:
        whole = self._model.model.embed_tokens
        return VocabParallelEmbedding(whole, self._group, tp_meta=self._meta, name="embed_tokens", **tied)


@contextmanager
def gathered(parameter: torch.nn.Parameter) -> Iterator[None]:
    """The whole weight in the place of a rank's part, which is back afterwards: a view of ZeRO's buffer, as before."""
    if not getattr(parameter, DS_IS_REPLACED_MODULE, False):
        yield
        return
    part = parameter.data
    cut: Any = parameter
    cut.gather_params([parameter])
    try:
        yield
    finally:
        parameter.data = part


@contextmanager
def whole_logits(head: torch.nn.Module) -> Iterator[None]:
    """A head that is divided by vocabulary gives every rank all logits for as long as the context lasts."""
    if not isinstance(head, VocabParallelLinear):
        yield
        return
    head.gather_output = True
    try:
        yield
    finally:
        head.gather_output = False
