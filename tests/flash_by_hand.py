"""FlashAttention's two functions in plain torch, for machines without the package; all around them is transformers.

They have the parameters of flash-attn 2 that transformers looks at, so that it calls them as it calls those.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils as theirs


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Rows of one document each: [batch, tokens, heads, head size]."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out = scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale, enable_gqa=True
    )
    return out.transpose(1, 2)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Documents end to end: [tokens, heads, head size]; what the kernel would read out of bounds is refused."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    lengths = cu_seqlens_q.diff().tolist()
    assert sum(lengths) == len(q) == len(k)
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max(lengths) == int(max_seqlen_q) == int(max_seqlen_k)
    documents = zip(*(tensor.split(lengths) for tensor in (q, k, v)), strict=True)
    options: dict[str, Any] = {"dropout_p": dropout_p, "softmax_scale": softmax_scale, "causal": causal}
    return torch.cat([flash_attn_func(*(part[None] for part in parts), **options)[0] for parts in documents])


@contextmanager
def flash_attention(model: Any) -> Iterator[None]:
    """The model computes attention as with `attention: flash_attention_2`, for as long as the context lasts."""
    functions = (flash_attn_func, flash_attn_varlen_func, None, theirs._pad_input, theirs._unpad_input)
    before = model.config._attn_implementation
    # Not by set_attn_implementation: that asks for the package and its GPU.
    model.config._attn_implementation = "flash_attention_2"
    with (
        mock.patch.object(theirs, "_lazy_imports", return_value=functions),
        mock.patch.object(theirs, "_loaded_implementation", None),
    ):
        yield
    model.config._attn_implementation = before
