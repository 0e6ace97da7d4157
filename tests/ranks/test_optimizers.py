"""Groups of parameters: what decays and how fast each learns is in every layout what one process makes of it."""

from pathlib import Path
from typing import Any

import pytest

from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import write_run
from ranks.settings import GROUPS
from ranks.test_resume import STOP, assert_bit_equal, run

pytestmark = pytest.mark.ranks


LAYOUTS: tuple[dict[str, Any], ...] = (
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 2, "offload": "optimizer"},
    {"zero_stage": 1, "tp": 2},
    {"pp": 2},
)


@pytest.mark.parametrize(
    ("which", "choices"),
    [
        *(("deep", choices) for choices in LAYOUTS),
        # A tied head is in two stages of a pipeline; elsewhere it is one tensor more.
        ("deep_tied", {"pp": 2}),
        *(pytest.param("deep_tied", choices, marks=pytest.mark.soak) for choices in LAYOUTS if "pp" not in choices),
    ],
    ids=str,
)
def test_groups_equal_one_process(
    tmp_path: Path, request: pytest.FixtureRequest, which: str, choices: dict[str, Any]
) -> None:
    model = request.getfixturevalue(which)
    here = trained(write_run(tmp_path / "run", model, optimizer=GROUPS, **choices))
    one = reference_run(model, grouped=True)
    assert_equal(here.steps, one.steps, loss=3e-6, norm=1e-5)
    assert_same_weights(here.weights, one.model, within=1e-5)


def test_groups_make_a_difference(deep: Path) -> None:
    """Else the test above would pass without them."""
    plain, grouped = (dict(reference_run(deep, grouped=way).model.named_parameters()) for way in (False, True))
    assert all((plain[name] - grouped[name]).abs().max() > 1e-4 for name in plain)


@pytest.mark.parametrize(
    "choices",
    [pytest.param({"zero_stage": 2}, marks=pytest.mark.soak), {"zero_stage": 3, "precision": "bf16"}, {"pp": 2}],
    ids=str,
)
def test_groups_go_on_bit_for_bit(tmp_path: Path, deep: Path, choices: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "run", deep, optimizer=GROUPS, **choices)
    whole = run(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run(second_half, folder, tmp_path / "store"), whole)
