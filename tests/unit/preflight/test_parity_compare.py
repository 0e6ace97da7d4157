"""What is told of three curves that should be one."""

from typing import Any

import pytest

from toolkit.preflight.parity import compare

ONE: dict[str, Any] = {
    "loss": [5.0, 4.9, 4.8],
    "norm": [2.0, 1.9, 1.8],
    "labels": [10, 11, 12],
    "skipped": [False] * 3,
    "rounded": False,
    "finite": True,
}
SINGLE = {**ONE, "plain_loss": ONE["loss"], "plain_norm": ONE["norm"]}


def test_one_curve_passes() -> None:
    found = compare(ONE, SINGLE)
    assert (found.state, found.said.endswith("loss 0.0e+00, gradient norm 0.0e+00")) == ("passed", True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss": [5.01, 4.9, 4.8]}, "loss of step 1 is 5.01, that of one process 5: the forward pass is wrong"),
        ({"norm": [4.0, 1.9, 1.8]}, "gradient norm of step 1 is 4, that of one process 2: the backward pass is wrong"),
        ({"loss": [5.0, 4.5, 4.8]}, "loss of step 2 is 4.5, that of one process 4.9: an update, or its learning rate,"),
        ({"labels": [10, 11, 24]}, "labels per step are [10, 11, 24], in one process [10, 11, 12]"),
        ({"finite": False}, "loss or gradients are not finite"),
        ({"skipped": [True, False, False]}, "loss or gradients are not finite"),
        ({"loss": [float("nan"), 4.9, 4.8]}, "loss of step 1 is nan"),
    ],
)
def test_what_departs_is_told(changes: dict[str, Any], told: str) -> None:
    found = compare({**ONE, **changes}, SINGLE)
    assert found.state == "failed"
    assert found.said.startswith(told)
    assert found.remedy


def test_an_engine_that_is_wrong_in_one_process_too_departs_from_plain_torch() -> None:
    found = compare(ONE, {**SINGLE, "plain_norm": [20.0, 19.0, 18.0]})
    assert found.said.startswith("gradient norm of step 1 is 2, that of plain transformers 20")


def test_optimizers_that_torch_lacks_are_compared_at_the_first_step() -> None:
    first = {**SINGLE, "plain_loss": [5.0], "plain_norm": [2.0]}
    assert compare(ONE, first).state == "passed"
    assert compare({**ONE, "loss": [5.0, 4.0, 3.0]}, first).state == "failed"


def test_16_bits_are_further_apart() -> None:
    near = {**ONE, "loss": [5.02, 4.92, 4.82], "rounded": True}
    assert compare(near, SINGLE).state == "passed"
    assert compare({**near, "rounded": False}, SINGLE).state == "failed"
