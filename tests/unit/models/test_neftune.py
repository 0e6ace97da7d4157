"""NEFTune's noise: how large, on which tokens, and the same whoever holds a part of a row."""

import math

import torch

from toolkit.models.neftune import Noise, document_lengths

WIDTH, ALPHA = 64, 5.0
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
ROWS = Noise(torch.tensor([11, 12]), document_lengths(torch.arange(6).repeat(2, 1), MASK))


def test_padding_counts_for_nothing() -> None:
    assert ROWS.lengths.tolist() == [[5, 5, 5, 5, 5, 0], [0, 0, 4, 4, 4, 4]]
    noise = ROWS.on(torch.zeros(2, 6, WIDTH), alpha=ALPHA)
    assert noise[0, 5:].abs().max() == noise[1, :2].abs().max() == 0
    for row, length in ((noise[0, :5], 5), (noise[1, 2:], 4)):
        largest = ALPHA / math.sqrt(length * WIDTH)
        assert 0.95 * largest < row.abs().max() <= largest
        assert abs(row.mean()) < 0.1 * largest


def test_documents_of_a_packed_row_have_lengths_of_their_own() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    assert document_lengths(positions, torch.tensor([[1, 1, 1, 1, 1, 0, 0]])).tolist() == [[3, 3, 3, 2, 2, 0, 0]]


def test_parts_of_a_row_are_the_row() -> None:
    hidden = torch.randn(2, 6, WIDTH)
    whole = ROWS.on(hidden, alpha=ALPHA)
    parts = [ROWS.on(hidden[:, low : low + 3], alpha=ALPHA, part=(low, low + 3)) for low in (0, 3)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_wider_micro_batches_draw_the_same() -> None:
    wider = Noise(ROWS.seeds[:1], torch.nn.functional.pad(ROWS.lengths[:1], (0, 10)))
    narrow, wide = ROWS.on(torch.zeros(2, 6, WIDTH), alpha=ALPHA), wider.on(torch.zeros(1, 16, WIDTH), alpha=ALPHA)
    assert torch.equal(wide[0, :6], narrow[0])
