"""Where a step's time goes: laps by the clock."""

import time

import pytest
import torch

from toolkit.engines.common.laps import Laps


def test_laps_of_one_name_add_up_to_the_whole() -> None:
    began = time.perf_counter()
    laps = Laps(torch.device("cpu"))
    for _ in range(2):
        time.sleep(0.01)
        laps.mark("forward")
        laps.mark("backward")
    whole, seconds = time.perf_counter() - began, laps.seconds()
    assert list(seconds) == ["forward", "backward"]
    assert seconds["forward"] >= 0.02
    assert seconds["backward"] < seconds["forward"]
    assert sum(seconds.values()) == pytest.approx(whole, abs=5e-3)


def test_no_mark_no_seconds() -> None:
    assert Laps(torch.device("cpu")).seconds() == {}
