"""Where the numbers of a model's tensors lie in Megatron's: against joins and cuts that are written out here."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.engines.mcore.table import ENDS, LAYER, Cut, Segment, padded_vocab, segments
from toolkit.specs.model import ModelSpec


def model_of(*, groups: int, per_group: int, head_dim: int, ffn: int, vocab: int) -> ModelSpec:
    heads = groups * per_group
    return ModelSpec(
        name="test",
        model_type="llama",
        hidden_size=heads * head_dim,
        intermediate_size=ffn,
        num_layers=2,
        num_heads=heads,
        num_kv_heads=groups,
        head_dim=head_dim,
        vocab_size=vocab,
        max_position_embeddings=64,
    )


def joined_by_hand(name: str, tensors: list[torch.Tensor], model: ModelSpec, cut: Cut) -> torch.Tensor:
    """One of Megatron's tensors on one rank, -1 where it is filled up."""
    if name.endswith("linear_qkv.weight"):
        groups = [tensor.view(model.num_kv_heads, -1, tensor.shape[1]) for tensor in tensors]
        return torch.cat(groups, dim=1).chunk(cut.tp)[cut.rank].flatten(0, 1)
    if name.endswith("linear_fc1.weight"):
        return torch.cat([tensor.chunk(cut.tp)[cut.rank] for tensor in tensors])
    (tensor,) = tensors
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return tensor.chunk(cut.tp, dim=1)[cut.rank]
    if name.endswith("layernorm.weight"):
        return tensor
    missing = padded_vocab(model.vocab_size, cut.tp) - model.vocab_size
    return torch.nn.functional.pad(tensor, (0, 0, 0, missing), value=-1).chunk(cut.tp)[cut.rank]


def numbers(found: Segment, whole: torch.Tensor) -> torch.Tensor:
    return whole.narrow(found.dim, found.low, found.high - found.low).flatten()[found.start : found.stop]


@given(
    groups=st.sampled_from([4, 8]),
    per_group=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6]),
    parts=st.integers(1, 5),
    vocab=st.integers(5, 40),
    tp=st.sampled_from([1, 2, 4]),
)
def test_segments_are_what_is_joined_and_cut(
    groups: int, per_group: int, head_dim: int, parts: int, vocab: int, tp: int
) -> None:
    model = model_of(groups=groups, per_group=per_group, head_dim=head_dim, ffn=4 * parts, vocab=vocab)
    shapes = model.weight_shapes
    for table, prefix in ((ENDS, ""), (LAYER, "model.layers.1.")):
        for name, row in table.items():
            names = tuple(prefix + one for one in row.names)
            count = sum(math.prod(shapes[one]) for one in names)
            every = iter(torch.arange(count).split([math.prod(shapes[one]) for one in names]))
            wholes = {one: next(every).view(shapes[one]) for one in names}
            for rank in range(tp):
                cut = Cut(tp, rank)
                expected = joined_by_hand(name, list(wholes.values()), model, cut).flatten()
                flat = torch.full_like(expected, -1)
                given_row = row._replace(names=names)
                for found in segments(given_row, [shapes[one] for one in names], model, cut=cut):
                    flat[found.offset : found.offset + found.stop - found.start] = numbers(found, wholes[found.name])
                assert torch.equal(flat, expected), (name, rank)


@pytest.mark.parametrize(("vocab", "tp", "rows"), [(501, 1, 501), (501, 2, 502), (501, 4, 504), (512, 4, 512)])
def test_rows_are_filled_up_no_further_than_ranks_need(vocab: int, tp: int, rows: int) -> None:
    assert padded_vocab(vocab, tp) == rows
