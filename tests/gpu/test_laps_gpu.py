"""Where a step's time goes on a GPU: the device's time, though the host has long gone on."""

import time

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_lap_is_what_the_device_took() -> None:
    from toolkit.engines.common.laps import Laps

    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    began = time.perf_counter()
    laps = Laps(device)
    laps.mark("waiting")
    for _ in range(20):
        matrix @ matrix
    laps.mark("forward")
    seconds = laps.seconds()
    whole = time.perf_counter() - began
    assert 0.5 * whole < seconds["forward"] <= whole
    assert seconds["waiting"] < 0.1 * seconds["forward"]
