"""Tensor parallelism by DeepSpeed's AutoTP layers, put in layer by layer so that nothing whole need be in memory.

Column-parallel q, k, v, gate, up; row-parallel o and down (1909.08053, section 3); embedding and head by vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import zero
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

    def cut(self, part: torch.nn.Module) -> None:
        """Divide a part whose weights have been read; its parameters stay the same objects, of smaller size."""
        model, inside = self._model, list(part.modules())
        has_head, has_embedding = model.lm_head in inside, model.model.embed_tokens in inside
        tied: dict[str, Any] = {}
        if has_head and self._vocab:
            model.lm_head = VocabParallelLinear(model.lm_head, self._group, tp_meta=self._meta, name="lm_head")
            if has_embedding:
                tied = {"tied_vocab_parallel_linear": model.lm_head}
        if has_embedding and self._vocab:
            model.model.embed_tokens = VocabParallelEmbedding(
                model.model.embed_tokens, self._group, tp_meta=self._meta, name="embed_tokens", **tied
            )
        for owner in inside:
            for name, layer in list(owner.named_children()):
                if name in _COLUMNS:
                    setattr(owner, name, LinearLayer(layer, self._group, tp_meta=self._meta, name=name))
                elif name in _ROWS:
                    setattr(owner, name, LinearAllreduce(layer, self._group, tp_meta=self._meta, name=name))


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
def whole(parameter: torch.nn.Parameter, *, partitioned: bool) -> Iterator[None]:
    """All of a weight on every rank, for as long as the context lasts.

    Args:
        parameter: the weight, or this rank's part of it.
        partitioned: by ZeRO-3.
    """
    with zero.GatheredParameters([parameter]) if partitioned else nullcontext(), gathered(parameter):
        yield


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
