"""The sizes that bytes and seconds follow from, as plain numbers: of a ModelSpec, or of a row of published runs."""

from collections.abc import Collection
from typing import NamedTuple

from typing_extensions import Self

from toolkit.specs.model import LINEAR_LAYERS, ModelSpec

_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers by what they read: the residual stream, attention's output, the residual stream, the MLP's inside."""


class Shape(NamedTuple):
    """A decoder-only transformer; every width in elements."""

    num_layers: int
    hidden: int
    """Width of the residual stream."""
    query: int
    """num_heads x head_dim."""
    key_value: int
    """num_kv_heads x head_dim."""
    ffn: int
    """Width inside the MLP."""
    vocab: int
    num_heads: int
    num_kv_heads: int
    layer_params: int
    """Parameters of one decoder layer, norms and biases included."""
    tied: bool = False
    """The head is the embedding's own matrix."""
    gated: bool = True
    """The MLP has gate, up and down (LLaMA); False: up and down only (GPT)."""

    @classmethod
    def of(cls, model: ModelSpec) -> Self:
        """The sizes of a model."""
        return cls(
            num_layers=model.num_layers,
            hidden=model.hidden_size,
            query=model.num_heads * model.head_dim,
            key_value=model.num_kv_heads * model.head_dim,
            ffn=model.intermediate_size,
            vocab=model.vocab_size,
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            layer_params=model.layer_params,
            tied=model.tied_embeddings,
        )

    @property
    def layer_matmul(self) -> int:
        """Parameters of one decoder layer that multiply every token."""
        attention = self.hidden * (2 * self.query + 2 * self.key_value)
        return attention + (3 if self.gated else 2) * self.hidden * self.ffn

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding."""
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        """Parameters that the head adds: 0 where it is tied to the embedding."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def num_params(self) -> int:
        """All parameters, the tied head counted once."""
        return self.embedding_params + self.num_layers * self.layer_params + self.hidden + self.head_params

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest linear layer inside a decoder layer."""
        return self.hidden * max(self.ffn, self.query)

    def adapter_params(self, rank: int, targets: Collection[str] = LINEAR_LAYERS) -> int:
        """Parameters of LoRA adapters of one decoder layer: rank x (inputs + outputs) of each adapted linear layer.

        Args:
            rank: rank of the adapters.
            targets: which linear layers are adapted.
        """
        hidden = self.hidden
        outputs = {"q_proj": self.query, "k_proj": self.key_value, "v_proj": self.key_value, "o_proj": self.query}
        outputs |= {"up_proj": self.ffn, "down_proj": self.ffn} | ({"gate_proj": self.ffn} if self.gated else {})
        # Of o_proj and down_proj the hidden width is the output.
        return rank * sum(hidden + width for name, width in outputs.items() if name in targets)

    def adapter_inputs(self, targets: Collection[str] = LINEAR_LAYERS, *, shared: bool) -> int:
        """Input elements per token of the adapted linear layers of one decoder layer.

        Args:
            targets: which they are.
            shared: layers with the same input keep it once.
        """
        total = 0
        for names, width in zip(_SAME_INPUT, (self.hidden, self.query, self.hidden, self.ffn), strict=True):
            adapted = sum(name in targets for name in names)
            total += width * (min(adapted, 1) if shared else adapted)
        return total
