"""How Megatron's tensors are made of Hugging Face's: a table, and which numbers of them lie where on a rank.

Megatron joins q, k and v of each key/value group (`linear_qkv`), gate and up (`linear_fc1`), and cuts what is joined
over the tensor-parallel ranks. Both use the same order within a head: Megatron's rotation is not interleaved.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.specs.model import ModelSpec

Joined = Literal["no", "by group", "one after the other"]


class Row(NamedTuple):
    """One tensor of Megatron's."""

    names: tuple[str, ...]
    """The tensors that it is made of, as Hugging Face calls them."""
    joined: Joined = "no"
    dim: int | None = None
    """The dimension that tensor parallelism cuts; None: every rank has all of it."""


EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

ENDS: dict[str, Row] = {
    "embedding.word_embeddings.weight": Row((EMBEDDING,), dim=0),
    "decoder.final_layernorm.weight": Row(("model.norm.weight",)),
    "output_layer.weight": Row((HEAD,), dim=0),
}
"""Outside of the layers; a tied head on another stage than its embedding is a copy of that."""

LAYER: dict[str, Row] = {
    "input_layernorm.weight": Row(("input_layernorm.weight",)),
    "self_attention.linear_qkv.weight": Row(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), "by group", 0
    ),
    "self_attention.linear_proj.weight": Row(("self_attn.o_proj.weight",), dim=1),
    "pre_mlp_layernorm.weight": Row(("post_attention_layernorm.weight",)),
    "mlp.linear_fc1.weight": Row(("mlp.gate_proj.weight", "mlp.up_proj.weight"), "one after the other", 0),
    "mlp.linear_fc2.weight": Row(("mlp.down_proj.weight",), dim=1),
}
"""Of each layer; the names follow `decoder.layers.N.` and `model.layers.N.`."""


@dataclass(frozen=True)
class Segment:
    """Consecutive numbers of a tensor of Hugging Face's that lie together in one of Megatron's on this rank."""

    name: str
    """Of the tensor in the whole model."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dim: int
    """The dimension that tensor parallelism cuts; 0 where it does not."""
    low: int
    """First index of this rank's cut along `dim`."""
    high: int
    """Index after the last one."""
    start: int
    """First number in the flattened cut."""
    stop: int
    """Number after the last one."""
    offset: int
    """Where the first one lies in Megatron's flattened tensor."""


class Cut(NamedTuple):
    """Which part of the tensors is this rank's."""

    tp: int
    rank: int

    def of(self, size: int) -> tuple[int, int]:
        """First index of so many, and the one after the last; what does not divide is filled up at the end."""
        part = -(-size // self.tp)
        return min(self.rank * part, size), min((self.rank + 1) * part, size)


def padded_vocab(vocab_size: int, tp: int) -> int:
    """Rows of embedding and head: no more than equal parts need, as padding costs memory and has to be masked."""
    return -(-vocab_size // tp) * tp


def segments(row: Row, shapes: list[tuple[int, ...]], model: ModelSpec, *, cut: Cut) -> Iterator[Segment]:
    """What one of Megatron's tensors holds on this rank, padding left out.

    Args:
        row: of the table, its names those of the whole model.
        shapes: of the whole tensors, in the order of the names.
        model: says how many heads share a key and a value.
        cut: this rank's.
    """
    parts = [_Part(name, shape, row.dim, cut) for name, shape in zip(row.names, shapes, strict=True)]
    # Of each tensor so many numbers, then of the next one, and again from the first one: once where they are joined
    # one after the other, a time for each key/value group of this rank where they are joined by group.
    rounds = model.num_kv_heads // cut.tp if row.joined == "by group" else 1
    offset = 0
    for number in range(rounds):
        for part in parts:
            length = part.numbers // rounds
            start = number * length
            yield part.segment(start, start + length, offset)
            offset += length


class _Part:
    """This rank's cut of one tensor."""

    def __init__(self, name: str, shape: tuple[int, ...], dim: int | None, cut: Cut) -> None:
        self._name, self._shape, self._dim = name, shape, dim or 0
        self._bounds = (0, shape[0]) if dim is None else cut.of(shape[dim])
        size = self._bounds[1] - self._bounds[0]
        self.numbers = size
        for other, length in enumerate(shape):
            self.numbers *= 1 if other == self._dim else length

    def segment(self, start: int, stop: int, offset: int) -> Segment:
        low, high = self._bounds
        return Segment(self._name, self._shape, self._dim, low, high, start, stop, offset)
