"""Clipping: whatever the layout, gradients are clipped as on whole tensors in one process, and both norms are told."""

from pathlib import Path
from typing import Any

import pytest

from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import write_run
from ranks.settings import LEARNING_RATES
from ranks.test_resume import STOP, assert_bit_equal, run
from toolkit.specs.clipping import ClippingConfig

pytestmark = pytest.mark.ranks

KINDS = {
    "value": ClippingConfig(kind="value", value=0.02),
    "agc": ClippingConfig(kind="agc", ratio=0.05),
    "zclip": ClippingConfig(kind="zclip", zscore=0.5, decay=0.8, warmup_steps=5),
    "percentile": ClippingConfig(kind="percentile", percentile=30, window=8),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "tp2": {"zero_stage": 2, "tp": 2},
    "tp2-zero3": {"zero_stage": 3, "tp": 2},
    "pp2": {"pp": 2},
    "offload": {"zero_stage": 2, "offload": "optimizer"},
}
# A threshold is one number for all, so that one layout shows it; units are cut in as many ways as there are layouts.
IN_CI = {
    *(("agc", layout) for layout in ("zero1", "zero3", "tp2", "pp2")),
    ("value", "zero0"),
    ("zclip", "zero2"),
    ("percentile", "pp2"),
}
CASES = [
    pytest.param(kind, layout, marks=[] if (kind, layout) in IN_CI else [pytest.mark.soak])
    for kind in KINDS
    for layout in LAYOUTS
]


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_equals_one_process(tmp_path: Path, deep: Path, kind: str, layout: str) -> None:
    here = trained(write_run(tmp_path / "run", deep, clipping=KINDS[kind], **LAYOUTS[layout]))
    one = reference_run(deep, clipping=KINDS[kind])
    assert_equal(here.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(here.weights, one.model, within=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_bites(deep: Path, kind: str) -> None:
    """Else the test above would pass without it."""
    steps = reference_run(deep, clipping=KINDS[kind]).steps
    assert sum(step.clipped_norm < 0.99 * step.grad_norm for step in steps) >= 5


@pytest.mark.parametrize(
    ("kind", "layout"), [("zclip", "zero2"), pytest.param("percentile", "pp2", marks=pytest.mark.soak)]
)
def test_a_threshold_goes_on_bit_for_bit(tmp_path: Path, deep: Path, kind: str, layout: str) -> None:
    folder = write_run(tmp_path / "run", deep, clipping=KINDS[kind], **LAYOUTS[layout])
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)


@pytest.mark.soak
@pytest.mark.parametrize(("before", "after"), [("zclip", "percentile"), ("percentile", "zclip"), ("zclip", "agc")])
def test_another_kind_begins_anew(tmp_path: Path, deep: Path, before: str, after: str) -> None:
    """Weights and moments go on beside it."""
    one = write_run(tmp_path / "one", deep, clipping=KINDS[before], zero_stage=2)
    run(first_half, one, tmp_path / "store", STOP, False)
    other = write_run(tmp_path / "two", deep, clipping=KINDS[after], zero_stage=2)
    steps = run(second_half, other, tmp_path / "store").steps
    assert len(steps) == len(LEARNING_RATES) - STOP
    assert all(0 < step.clipped_norm <= step.grad_norm for step in steps)
    # The first norms are not clipped: there is nothing to compare with.
    assert after == "agc" or steps[0].clipped_norm == steps[0].grad_norm
