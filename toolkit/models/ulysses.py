"""Ulysses sequence parallelism: attention sees all tokens of some heads, everything else all heads of some tokens.

DeepSpeed-Ulysses (2309.14509): an all-to-all before attention and one after. As an attention function of transformers,
it needs no other model code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from toolkit.errors import SpecError

_NAME = "toolkit_ulysses"
_DIVIDED = "ulysses"


@dataclass
class _Divided:
    """What the attention layers of a model share."""

    group: dist.ProcessGroup
    """The ranks that hold one sequence."""
    seen: torch.Tensor | None = None
    """Which tokens of the whole sequence see which: bool [batch, 1, seq, seq]; None: all that came before."""


def divide_attention(model: Any, group: dist.ProcessGroup, *, seq_len: int) -> None:
    """Make a `transformers` model take this rank's share of the tokens, in the order of the group's ranks.

    Args:
        model: with heads and key/value heads that the size of the group divides.
        group: the ranks that hold one sequence.
        seq_len: longest sequence in tokens.

    Raises:
        SpecError: the model's tokens see a window of fewer tokens than that (Mistral).
    """
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < seq_len:
        raise SpecError(
            f"sp={dist.get_world_size(group)}: this model's tokens see the {window} before them, seq_len is {seq_len}, "
            f"and Ulysses here lets them see all; use sp=1, or seq_len={window} or less"
        )
    AttentionInterface.register(_NAME, _attention)
    divided = _Divided(group)
    for layer in model.model.layers:
        setattr(layer.self_attn, _DIVIDED, divided)
    model.set_attn_implementation(_NAME)


def keep_documents_apart(model: Any, positions: torch.Tensor | None) -> None:
    """Say of the next forward pass, and of its backward pass, where documents begin.

    Args:
        model: that `divide_attention` has prepared.
        positions: position ids [batch, seq] of the whole rows, which begin again with every document; None where a row
            holds one.
    """
    divided: _Divided = getattr(model.model.layers[0].self_attn, _DIVIDED)
    divided.seen = None
    if positions is not None:
        document = (positions == 0).cumsum(1)
        same = document[:, None, :, None] == document[:, None, None, :]
        divided.seen = same.tril()


@contextmanager
def whole_sequences(model: Any) -> Iterator[None]:
    """The model takes whole sequences on every rank for as long as the context lasts."""
    before = model.config._attn_implementation
    if before != _NAME:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over the whole sequence.

    Args:
        module: an attention layer that `divide_attention` has prepared.
        query: [batch, heads, tokens of this rank, head size].
        key: as query, with the key/value heads.
        value: as key.
        attention_mask: none: `keep_documents_apart` says it, of whole rows; rows are padded on the right, where causal
            attention does not look.
        **options: of transformers' call; `scaling`, factor on the scores, and `dropout`, part of them, count here.

    Returns:
        [batch, tokens of this rank, heads, head size], and no scores.
    """
    assert attention_mask is None
    divided: _Divided = getattr(module, _DIVIDED)
    seen = divided.seen
    whole = _Exchange(divided.group, scatter=1, gather=2)
    queries, keys, values = (_exchanged(tensor, whole) for tensor in (query, key, value))
    scale, dropout = options.get("scaling"), options.get("dropout", 0.0)
    out = scaled_dot_product_attention(
        queries, keys, values, attn_mask=seen, is_causal=seen is None, scale=scale, dropout_p=dropout, enable_gqa=True
    )
    return _exchanged(out, whole.reverse).transpose(1, 2), None


class _Exchange(NamedTuple):
    """Which dimension is divided over a group, and which one is put together."""

    group: dist.ProcessGroup
    scatter: int
    gather: int

    @property
    def reverse(self) -> "_Exchange":
        return _Exchange(self.group, self.gather, self.scatter)


def _exchanged(tensor: torch.Tensor, exchange: _Exchange) -> torch.Tensor:
    exchanged: torch.Tensor = _AllToAll.apply(tensor, exchange)  # type: ignore[no-untyped-call]
    return exchanged


class _AllToAll(torch.autograd.Function):
    """Divides one dimension over the ranks of a group and puts another one together; backward the other way round."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, exchange: _Exchange) -> torch.Tensor:
        ctx.exchange = exchange
        return _all_to_all(tensor, exchange)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _all_to_all(gradient, ctx.exchange.reverse), None


def _all_to_all(tensor: torch.Tensor, exchange: _Exchange) -> torch.Tensor:
    size = dist.get_world_size(exchange.group)
    outgoing = torch.stack(tensor.chunk(size, dim=exchange.scatter))
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=exchange.group)
    return torch.cat(incoming.unbind(), dim=exchange.gather)
