"""Training in 16 bits, beside the same in fp32."""

import pytest
import torch

from toolkit.lessons.precision import DynamicScale, Trained, magnitudes, train

NEVER = 10**9
"""Steps without an overflow after which a scale that shall not grow would."""


@pytest.fixture(scope="module")
def in_fp32() -> Trained:
    return train(torch.float32, scale=DynamicScale(1.0, NEVER), steps=120)


def test_a_scale_halves_at_once_and_doubles_with_patience() -> None:
    scale, seen = DynamicScale(8.0, patience=3), []
    for finite in (True, True, False, True, True, True, True, True, True, False, False):
        scale.after(finite=finite)
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 8, 8, 16, 8, 4]


def test_small_gradients_vanish_in_fp16_unless_the_loss_is_scaled() -> None:
    assert magnitudes(scale=1.0).vanished > 0.8
    assert magnitudes(scale=2.0**24).vanished < 0.001
    assert max(magnitudes(scale=1.0).exponents) < -22


def test_without_a_scale_training_stands_still(in_fp32: Trained) -> None:
    without = train(torch.float16, scale=DynamicScale(1.0, NEVER), steps=120)
    scaled = train(torch.float16, scale=DynamicScale(2.0**16, NEVER), steps=120)
    assert without.losses[-1] > 1.5 * in_fp32.losses[-1]
    assert scaled.losses[-1] == pytest.approx(in_fp32.losses[-1], rel=0.01)
    assert without.num_skipped == scaled.num_skipped == 0


def test_a_dynamic_scale_finds_its_place(in_fp32: Trained) -> None:
    dynamic = train(torch.float16, scale=DynamicScale(2.0**40, patience=15), steps=120)
    halved = sum(after < before for before, after in zip(dynamic.scales, dynamic.scales[1:], strict=False))
    assert 5 <= dynamic.num_skipped <= 30
    assert dynamic.num_skipped in (halved, halved + 1)  # after the last step nobody looks
    assert any(after > before for before, after in zip(dynamic.scales, dynamic.scales[1:], strict=False))
    assert dynamic.losses[-1] < 1.1 * in_fp32.losses[-1]


def test_a_scale_that_is_too_large_for_good_never_trains() -> None:
    stuck = train(torch.float16, scale=DynamicScale(2.0**60, NEVER), steps=1)
    assert stuck.num_skipped == 1
    assert stuck.unchanged == []


def test_bf16_alone_loses_small_updates(in_fp32: Trained) -> None:
    kept = train(torch.bfloat16, scale=DynamicScale(1.0, NEVER), steps=120)
    alone = train(torch.bfloat16, scale=DynamicScale(1.0, NEVER), keep=torch.bfloat16, steps=120)
    assert kept.losses[-1] == pytest.approx(in_fp32.losses[-1], rel=0.01)
    assert alone.losses[-1] > 1.05 * in_fp32.losses[-1]
    assert alone.unchanged[-1] > 0.7 > 0.01 > kept.unchanged[-1]
