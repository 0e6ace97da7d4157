"""Rows for new tokens begin as the mean of the old ones and train as in one process, in every layout.

Measured over 20 steps: loss off by at most 1e-6, norm by 2e-6, weights by 1e-5.
"""

from pathlib import Path
from typing import Any

import pytest

from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.reference import reference_run
from ranks.runs import write_run

pytestmark = pytest.mark.ranks

# Adam's first steps on rows that all begin alike are large.
LOSS, NORM, WEIGHTS = 3e-6, 1e-5, 2e-5
TOKENS = ("<|im_start|>", "<|im_end|>", "<|tool|>")
LAYOUTS: list[dict[str, Any]] = [
    {"zero_stage": 0},
    {"zero_stage": 2},
    {"zero_stage": 3},
    # 99 rows: one rank has one more.
    {"tp": 2, "zero_stage": 1},
    {"tp": 2, "zero_stage": 3},
    {"pp": 2},
    {"zero_stage": 1, "sp": 2},
]
QUICK = {("deep", 3), ("deep_tied", 5)}


@pytest.mark.parametrize(
    ("which", "choices"),
    [
        pytest.param(which, choices, marks=[] if (which, number) in QUICK else pytest.mark.soak)
        for which in ("deep", "deep_tied")
        for number, choices in enumerate(LAYOUTS)
    ],
    ids=str,
)
def test_they_train_as_in_one_process(
    tmp_path: Path, request: pytest.FixtureRequest, which: str, choices: dict[str, Any]
) -> None:
    model = request.getfixturevalue(which)
    ours = trained(write_run(tmp_path / "run", model, new_tokens=TOKENS, **choices))
    one = reference_run(model, new_tokens=len(TOKENS))
    assert_equal(ours.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(ours.weights, one.model, within=WEIGHTS)


@pytest.mark.parametrize("choices", [{"zero_stage": 2}, pytest.param({"pp": 2}, marks=pytest.mark.soak)], ids=str)
def test_they_train_beside_adapters(tmp_path: Path, untied: Path, choices: dict[str, Any]) -> None:
    ends = ("embed_tokens", "lm_head")
    folder = write_run(tmp_path / "run", untied, method="lora", modules_to_save=ends, new_tokens=TOKENS, **choices)
    ours = trained(folder)
    peft = frozenset({("modules_to_save", ends)})
    one = reference_run(untied, method="lora", adapters=peft, new_tokens=len(TOKENS))
    assert_equal(ours.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(ours.weights, one.model, within=WEIGHTS)
