"""`toolkit calibrate` on this machine's GPUs; skipped, with the reason, elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.specs.cluster import ClusterSpec

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_gpus_are_measured_with_their_links_to_the_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolkit", "calibrate", "-o", "machine.yaml", "--budget", "30"]
    subprocess.run(command, cwd=tmp_path, timeout=300, check=True)
    cluster = ClusterSpec.resolve(str(tmp_path / "machine.yaml"))
    rates = cluster.measured
    assert rates is not None
    assert cluster.gpus_per_node == torch.cuda.device_count()
    assert rates.host_to_device is not None
    assert rates.device_to_host is not None
    best = max(one.flops_per_second for one in rates.matmuls)
    # A GPU of today reaches half of its datasheet's peak and not more than a little above it.
    assert 0.4 < best / cluster.device.peak_flops(rates.matmuls[0].precision) < 1.1
    assert (rates.memory_bandwidth or 0) > 0.5 * cluster.device.memory_bandwidth
