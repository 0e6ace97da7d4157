"""Links between hosts: gloo over a slow one beside the planner's law, calibrated hosts, steps beside predictions."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hosts.cluster import Cluster, cluster_of

from toolkit.planner.cost.network import all_reduce_seconds, ring
from toolkit.planner.cost.rates import rates_of
from toolkit.planner.time_law import TimeLaw
from toolkit.specs.cluster import ClusterSpec

ROOT = Path(__file__).parents[2]
BYTES = {"fp32": 10 * 2**20, "fp16": 5 * 2**20}
MEASURED = {"fp32": 0.87, "fp16": 0.45}
"""Seconds over 100 Mb/s: 2 (n-1)/n x bytes / bandwidth."""


def timed(cluster: Cluster) -> dict[str, float]:
    """What one rank on each host takes."""
    met = {"MASTER_ADDR": cluster.hosts[0].address, "MASTER_PORT": "29512", "WORLD_SIZE": str(len(cluster.hosts))}
    words, said = [sys.executable, str(ROOT / "tests/hosts/all_reduces.py")], dict[int, str]()

    def run(rank: int) -> None:
        env = {**os.environ, **met, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "eth0"}
        done = cluster.hosts[rank].run(words, env=env, seconds=60)
        said[rank] = done.stdout if done.returncode == 0 else done.stderr

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(cluster.hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found: dict[str, float] = json.loads(said[0])
    return found


def test_gloo_over_100_megabits_takes_what_the_planner_says(tmp_path: Path) -> None:
    plain = ClusterSpec.resolve("2x1xcpu")
    spec = plain.model_copy(update={"inter_node_bandwidth": 12.5e6, "inter_node_latency": 1e-4})
    rates = rates_of(spec, TimeLaw())
    with cluster_of(2, tmp_path, rate="100mbit") as cluster:
        found = timed(cluster)
    for name, num_bytes in BYTES.items():
        assert found[name] == pytest.approx(MEASURED[name], rel=0.15)
        assert all_reduce_seconds(rates, ring(rates, 2, 1), num_bytes) == pytest.approx(found[name], rel=0.15)


@pytest.mark.soak
def test_hosts_are_calibrated_over_ssh(tmp_path: Path) -> None:
    output = tmp_path / "cluster.yaml"
    with cluster_of(2, tmp_path, rate="100mbit") as cluster:
        hostfile = cluster.hostfile(tmp_path / "hosts.txt", slots=1)
        words = [sys.executable, "-m", "toolkit", "calibrate", "--hosts", str(hostfile), "-o", str(output)]
        done = cluster.hosts[0].run([*words, "--budget", "5"], env=os.environ, cwd=ROOT, seconds=400)
    assert done.returncode == 0, done.stderr
    spec = ClusterSpec.from_file(output)
    assert (spec.num_nodes, spec.gpus_per_node) == (2, 1)
    assert spec.inter_node_bandwidth == pytest.approx(0.956 * 12.5e6, rel=0.2)
    assert spec.measured is not None
    assert {one.kind for one in spec.measured.collectives} == {
        *("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "p2p")
    }
    rates = rates_of(spec, TimeLaw())
    assert all_reduce_seconds(rates, ring(rates, 2, 1), BYTES["fp32"]) == pytest.approx(MEASURED["fp32"], rel=0.2)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_steps_over_slow_links_are_predicted_and_what_is_sent_less_gains_what_it_should() -> None:
    done = subprocess.run([sys.executable, "benchmarks/slow_links.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
