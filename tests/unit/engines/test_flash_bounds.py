"""Packed rows under FlashAttention: it is told where documents begin, in micro-batches of any number of rows."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from flash_by_hand import flash_attention
from toolkit.data.batches import Batch, packed
from toolkit.engines.common.rows import flash_bounds
from toolkit.engines.zero.shares import Share, Shares

LENGTHS = [[5, 9, 2], [16, 7], [3], [1, 1, 20]]
"""Of the documents of each row; the widest has 23 tokens, rows are 24 wide."""


def batch(rows: int, *, size: int | None = None) -> Batch:
    draw = torch.Generator().manual_seed(0)
    packs = []
    for lengths in LENGTHS[:rows]:
        documents = [torch.randint(1, 64, (length,), generator=draw).tolist() for length in lengths]
        packs.append([(ids, ids) for ids in documents])
    return packed(packs, size=size or rows, pad=0)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(vocab_size=64, num_hidden_layers=2, initializer_range=0.3, **sizes)
        return LlamaForCausalLM(config).train()


def gradients_and_loss(model: Any, share: Share) -> tuple[torch.Tensor, float]:
    model.zero_grad()
    logits = model(**share.inputs, **share.bounds, use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), share.wanted.flatten(), ignore_index=-100)
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]), loss.item()


def test_bounds_are_those_of_the_documents_and_of_the_padding() -> None:
    found = flash_bounds(batch(2, size=3)["position_ids"])
    # 5 + 9 + 2 and 8 of padding, 16 + 7 and 1, a stand-in.
    assert found["cu_seq_lens_q"].diff().tolist() == [5, 9, 2, 8, 16, 7, 1, 24]  # type: ignore[union-attr]
    assert found["cu_seq_lens_q"] is found["cu_seq_lens_k"]
    assert found["max_length_q"] == found["max_length_k"] == 24
    assert isinstance(found["max_length_q"], int)


def test_tokens_and_labels_stay_as_they_are() -> None:
    made = batch(3)
    plain, told = Shares(1, 0).of(made), Shares(1, 0, flash=True).of(made)
    assert told.inputs["input_ids"] is plain.inputs["input_ids"] is made["input_ids"]
    assert told.inputs["position_ids"] is plain.inputs["position_ids"] is made["position_ids"]
    assert torch.equal(told.wanted, plain.wanted)
    assert told.bounds.keys() == {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    assert not plain.bounds


def test_rows_of_one_document_need_no_bounds() -> None:
    made = {name: tensor for name, tensor in batch(2).items() if name != "position_ids"}
    share = Shares(1, 0, flash=True).of(made)
    assert share.inputs.keys() == {"input_ids"}
    assert not share.bounds


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (4, 4), (2, 3)])
def test_same_loss_and_gradients_as_other_attention(model: Any, rows: int, size: int, attention: str) -> None:
    made = batch(rows, size=size)
    model.set_attn_implementation(attention)
    expected, loss = gradients_and_loss(model, Shares(1, 0).of(made))
    with flash_attention(model):
        found, told = gradients_and_loss(model, Shares(1, 0, flash=True).of(made))
    assert told == pytest.approx(loss, rel=1e-6)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_untold_it_mixes_documents_of_more_than_one_row(model: Any) -> None:
    """The limit of transformers that the bounds are for; where it is gone, so may they be."""
    model.set_attn_implementation("sdpa")
    for rows, mixes in ((1, False), (2, True)):
        share = Shares(1, 0).of(batch(rows))
        _, loss = gradients_and_loss(model, share)
        with flash_attention(model):
            _, told = gradients_and_loss(model, share)
        assert (abs(told - loss) > 1e-3 * loss) is mixes
