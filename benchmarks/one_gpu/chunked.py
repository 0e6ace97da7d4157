"""Head and cross-entropy over chunks of tokens, computed again in the backward pass; the toolkit has no such loss yet.

The plainest form of what Liger's fused linear cross-entropy and ALST's tiled loss (arXiv 2506.13996) do: the logits of
one chunk exist at a time, and the head's forward pass runs twice.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from one_gpu.cases import CHUNK_TOKENS
from toolkit.engines.ds.loss import IGNORED
from toolkit.engines.zero.engine import ZeroEngine
from toolkit.engines.zero.shares import Share


class ChunkedLossModel(torch.nn.Module):
    """A causal language model that answers with its loss, summed over the supervised tokens in fp32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config

    def get_base_model(self) -> Any:
        """The `transformers` model itself, by the name under which peft's models have it."""
        return self.inner.get_base_model() if hasattr(self.inner, "peft_config") else self.inner

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`labels` is [micro_batch, seq] and already one place to the left."""
        causal = self.get_base_model()
        hidden = causal.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

        def loss_of(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return cross_entropy(causal.lm_head(part).float(), wanted, ignore_index=IGNORED, reduction="sum")

        chunks = zip(
            torch.split(hidden.flatten(0, 1), CHUNK_TOKENS), torch.split(labels.flatten(), CHUNK_TOKENS), strict=True
        )
        losses = [checkpoint(loss_of, part, wanted, use_reentrant=False) for part, wanted in chunks]
        return torch.stack(losses).sum()


class ChunkedLossEngine(ZeroEngine):
    """The toolkit's engine on a `ChunkedLossModel`."""

    def _loss_sum(self, share: Share) -> torch.Tensor:
        inputs = {name: self._to_device(tensor) for name, tensor in share.inputs.items()}
        loss: torch.Tensor = self._engine(**inputs, labels=self._to_device(share.wanted))
        return loss
