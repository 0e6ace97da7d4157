"""What megatron-core has with Transformer Engine only, and LLaMA needs: a norm and an attention on torch's kernels."""

from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import rms_norm, scaled_dot_product_attention


class RMSNorm(torch.nn.Module):
    """Over the last dimension. Megatron's own wrapper of torch's refuses sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self._eps = eps
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        # Each rank sees a part of the tokens: Megatron adds up the gradients of what is marked so.
        weight: Any = self.weight
        weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden size], the same."""
        return rms_norm(hidden, (hidden.shape[-1],), self.weight, self._eps)


class Attention(MegatronModule):  # type: ignore[misc]
    """Attention by torch's SDPA with grouped queries; a context-parallel rank gathers the others' keys and values.

    As Llama 3 was trained (arXiv 2407.21783, section 3.3.2): with few key/value heads they are small beside the scores,
    and any mask goes. Megatron's own has no context parallelism without Transformer Engine.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any = None,
        attention_type: str = "self",
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        self._scale, self._group = softmax_scale, pg_collection.cp

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *masks: torch.Tensor | None,
        **_: Any,
    ) -> torch.Tensor:
        """What each of this rank's tokens takes from those that it sees.

        Args:
            query: [seq / cp, batch, heads, head_dim] of this rank's tokens.
            key: the same with key/value heads.
            value: as `key`.
            masks: one, bool [batch or 1, 1, seq / cp, seq], True where a token is seen; None is causal, for cp=1.

        Returns:
            [seq / cp, batch, heads x head_dim].
        """
        if self._group.size() > 1:
            key, value = self._whole(key), self._whole(value)
        (seen,) = masks
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        mixed = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=seen,
            is_causal=seen is None,
            scale=self._scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return mixed.permute(2, 0, 1, 3).flatten(2)

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """All tokens in their order, of every rank's [seq / cp, ...]."""
        gathered: torch.Tensor = gather_from_sequence_parallel_region(part.contiguous(), group=self._group)
        return gathered[shares_of_tokens(len(gathered), self._group.size(), part.device).flatten().argsort()]


def shares_of_tokens(seq: int, cp: int, device: torch.device) -> torch.Tensor:
    """Numbers of the tokens that each context-parallel rank has: int64 [cp, seq / cp].

    A block from the front and one from the back each, so that causal masks cost all the same; Megatron rotates by it
    (core/models/common/embeddings/rope_utils.py).
    """
    blocks = torch.arange(seq, device=device).view(2 * cp, -1)
    return torch.stack([torch.cat([blocks[rank], blocks[2 * cp - 1 - rank]]) for rank in range(cp)])
