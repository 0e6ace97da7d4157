"""Padding on the right is left to causal attention; on the left it is masked, or refused where it cannot be."""

import pytest
import torch

from toolkit.engines.common.rows import padded_on_the_left
from toolkit.engines.zero.shares import Shares
from toolkit.errors import EngineError


def batch(*masks: list[int]) -> dict[str, torch.Tensor]:
    mask = torch.tensor(masks)
    ids = torch.arange(mask.numel()).view_as(mask)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask == 1, -100)}


@pytest.mark.parametrize("row", [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
def test_on_the_right(row: list[int]) -> None:
    made = batch([1, 1, 1, 1], row)
    assert not padded_on_the_left(made["attention_mask"])
    share = Shares(1, 0).of(made)
    assert list(share.inputs) == ["input_ids"]
    assert share.num_tokens == 4 + sum(row)


@pytest.mark.parametrize("row", [[0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]])
def test_on_the_left(row: list[int]) -> None:
    made = batch([1, 1, 1, 1], row)
    assert padded_on_the_left(made["attention_mask"])
    assert torch.equal(Shares(1, 0).of(made).inputs["attention_mask"], made["attention_mask"])
    with pytest.raises(EngineError, match="sp=2: a row is padded on the left"):
        Shares(2, 0).of(made)
