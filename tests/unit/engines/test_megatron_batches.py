"""Which tokens of a row a rank of Megatron's has, and which it sees."""

from typing import Any

import pytest
import torch

from toolkit.engines.mcore.batches import Cutter
from toolkit.engines.mcore.place import Place
from toolkit.errors import EngineError

CPU = torch.device("cpu")


def cutter(*, cp: int = 1, rank: int = 0, tp: int = 1, sequence_parallel: bool = False) -> Cutter:
    place = Place(tp=0, cp=rank, dp=0, pp=0, num_tp=tp, num_cp=cp, num_dp=1, num_pp=1)
    return Cutter(place, CPU, sequence_parallel=sequence_parallel)


def batch(*lengths: int, width: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    ids = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100), **more}


def test_micro_batches_of_a_step_are_filled_up_to_one_size() -> None:
    found = cutter().of_batches([batch(3, 5, width=5), batch(2, width=2)])
    assert [tuple(one.ids.shape) for one in found] == [(2, 5), (2, 5)]
    assert found[1].ids.tolist() == [[1, 2, 0, 0, 0], [0] * 5]
    assert found[1].wanted.tolist() == [[2, -100, -100, -100, -100], [-100] * 5]
    assert found[0].seen is None


@pytest.mark.parametrize(
    ("choices", "multiple"),
    [
        ({}, 1),
        ({"tp": 4, "sequence_parallel": True}, 4),
        ({"tp": 4}, 1),
        ({"cp": 2}, 4),
        ({"cp": 2, "tp": 2, "sequence_parallel": True}, 8),
    ],
)
def test_the_width_is_what_the_layout_divides(choices: dict[str, Any], multiple: int) -> None:
    made = cutter(**choices)
    assert made.multiple == multiple
    width = made.of_batches([batch(5, width=5)])[0].ids.shape[1] * choices.get("cp", 1)
    assert width == -(-5 // multiple) * multiple


def test_each_rank_has_a_block_from_the_front_and_one_from_the_back_and_sees_all_before() -> None:
    row = batch(8, width=8)
    whole = cutter().of_batches([row])[0]
    for rank, own in enumerate(([0, 1, 6, 7], [2, 3, 4, 5])):
        found = cutter(cp=2, rank=rank).of_batches([row])[0]
        assert found.own.tolist() == own
        assert torch.equal(found.ids, whole.ids[:, own])
        assert torch.equal(found.wanted, whole.wanted[:, own])
        assert found.seen is not None
        assert found.seen[0, 0].sum(1).tolist() == [one + 1 for one in own]


def test_documents_of_a_packed_row_do_not_see_each_other() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    row = batch(6, width=6, position_ids=positions)
    found = cutter(tp=4, sequence_parallel=True).of_batches([row])[0]
    assert found.seen is not None
    seen = found.seen[0, 0].int()
    assert seen.shape == (8, 8)  # filled up for four ranks
    assert seen[:6, :6].tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert not seen[:6, 6:].any(), "nobody sees what fills the row up"


def test_prompts_do_not_see_what_pads_them() -> None:
    ids, mask = torch.tensor([[0, 0, 7], [4, 5, 6]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    found = cutter().of_prompts(ids, mask)
    assert found.seen is not None
    assert found.seen[:, 0, 2].tolist() == [[False, False, True], [True, True, True]]
    assert found.seen.any(-1).all(), "a softmax over nothing"


def test_rows_that_are_padded_on_the_left_are_refused() -> None:
    row = batch(2, width=3)
    row["attention_mask"] = torch.tensor([[0, 1, 1]])
    with pytest.raises(EngineError, match=r"mcore: a row is padded on the left; pad rows on the right"):
        cutter().of_batches([row])
