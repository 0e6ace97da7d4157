"""LLaMA as a row of layers that a pipeline can divide: embedding, blocks of decoder layers, norm, head.

Made of the `transformers` layers themselves, so that names, numerics and adapters are those of the whole model. From
stage to stage goes a pair: hidden states [micro_batch, seq, hidden] and position ids, int64 [micro_batch, seq]. There
is no attention mask: rows are padded on the right, where causal attention does not look, and positions that begin
again are another document, which `transformers` keeps apart.
"""

from collections.abc import Callable

import torch
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from toolkit.models.neftune import Noise
from toolkit.models.unloaded import UnloadedModel

Read = Callable[[torch.nn.Module], None]
"""Gives a part of the model its weights, as this rank keeps them."""
Crossing = tuple[torch.Tensor, torch.Tensor]
"""Hidden states and position ids."""


class Embedding(torch.nn.Module):
    """Token ids [micro_batch, seq] to hidden states; position ids go along.

    Args:
        model: whose embedding it is.
        read: gives it its weight.
        alpha: of the noise on hidden states, where there is any.
    """

    def __init__(self, model: UnloadedModel, read: Read, alpha: float | None = None) -> None:
        super().__init__()
        read(model.base.model.embed_tokens)
        self.embed_tokens = model.base.model.embed_tokens
        self._alpha = alpha

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> Crossing:
        """Look the tokens up; noise comes with what it follows from."""
        ids, positions, *noise = inputs
        hidden: torch.Tensor = self.embed_tokens(ids)
        if noise and self.training:
            assert self._alpha is not None
            hidden = Noise(*noise).on(hidden, alpha=self._alpha)
        return hidden, positions


class Body(torch.nn.Module):
    """The decoder layers of one stage; there may be none beside a large head."""

    def __init__(self, model: UnloadedModel, read: Read, layers: range) -> None:
        super().__init__()
        inner = model.base.model
        for index in layers:
            read(inner.layers[index])
        self.layers = torch.nn.ModuleList(inner.layers[index] for index in layers)
        self._config = model.base.config
        # Mistral's; LLaMA has none.
        self.window: int | None = getattr(self._config, "sliding_window", None)
        """Tokens that a token sees, itself included; None: all before it."""
        self.rotary_emb = inner.rotary_emb

    def forward(self, inputs: Crossing) -> Crossing:
        """All layers, causal."""
        hidden, positions = inputs
        make_mask = create_causal_mask if self.window is None else create_sliding_window_causal_mask
        seen = make_mask(
            config=self._config,
            inputs_embeds=hidden,
            attention_mask=None,
            past_key_values=None,
            position_ids=positions,
        )
        return self.run(hidden, positions, seen=seen), positions

    def new_cache(self) -> Cache:
        """Place for keys and values of all tokens that these layers have seen, also those outside a window."""
        return DynamicCache()

    def run(
        self, hidden: torch.Tensor, positions: torch.Tensor, *, seen: torch.Tensor | None, cache: Cache | None = None
    ) -> torch.Tensor:
        """All layers.

        Args:
            hidden: [micro_batch, seq, hidden].
            positions: [micro_batch, seq].
            seen: which tokens see which, [micro_batch, 1, seq, all tokens]; None: all that came before.
            cache: keys and values of the tokens before these.
        """
        if seen is not None and seen.dtype == torch.bool and self._config._attn_implementation == "eager":
            # It adds what it gets to the scores.
            seen = torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        embedded = self.rotary_emb(hidden, position_ids=positions)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                position_embeddings=embedded,
            )
        return hidden


class Norm(torch.nn.Module):
    """The last norm, apart from the head: a tied head shares all that it holds with the first stage."""

    def __init__(self, model: UnloadedModel, read: Read) -> None:
        super().__init__()
        read(model.base.model.norm)
        self.norm = model.base.model.norm

    def forward(self, inputs: Crossing) -> torch.Tensor:
        """Hidden states, normed; nobody needs the positions any more."""
        normed: torch.Tensor = self.norm(inputs[0])
        return normed


class Head(torch.nn.Module):
    """Holds the head, which the loss multiplies by: the pipeline tells labels to nobody else.

    Args:
        model: whose head it is.
        read: gives it its weight.
    """

    def __init__(self, model: UnloadedModel, read: Read) -> None:
        super().__init__()
        read(model.base.lm_head)
        self.lm_head = model.base.lm_head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states as they are, [micro_batch, seq, hidden]."""
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """One product: [..., hidden] to [..., vocabulary], or this rank's part of the vocabulary."""
        logits: torch.Tensor = self.lm_head(hidden)
        return logits


def layer_ranges(stages: tuple[int, ...]) -> list[range]:
    """Numbers of the decoder layers of each stage."""
    starts = [sum(stages[:index]) for index in range(len(stages))]
    return [range(start, start + count) for start, count in zip(starts, stages, strict=True)]
