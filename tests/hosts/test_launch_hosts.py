"""One run on several hosts is the run in one process, whatever the layout and whoever starts the hosts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts.cluster import Cluster, cluster_of
from hosts.hosted import (
    ROOT,
    Launched,
    environment,
    farthest,
    inputs_in,
    losses,
    make_run,
    toolkit_words,
    until,
)

from toolkit.launcher import launch

STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs_in(tmp_path_factory.mktemp("hosts") / "inputs")


@pytest.fixture(scope="module")
def alone(inputs: Path) -> list[float]:
    """Losses of the run in one process."""
    return losses(launch(make_run(inputs.parent / "alone", inputs, "1xcpu", steps=STEPS), preflight="off").path)


SOAK = pytest.mark.soak


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        pytest.param(1, {"zero_stage": 2}, marks=SOAK),
        pytest.param(1, {"zero_stage": 3}, marks=SOAK),
        pytest.param(1, {"pp": 2}, marks=SOAK),
        pytest.param(1, {"tp": 2, "engine": "zero", "zero_stage": 1}, marks=SOAK),
        pytest.param(1, {"engine": "mcore", "tp": 2}, marks=SOAK),
        pytest.param(2, {"zero_stage": 1}, marks=SOAK),
        pytest.param(2, {"pp": 2, "tp": 2}, marks=SOAK),
        pytest.param(2, {"tp": 2, "engine": "zero", "zero_stage": 1}, marks=SOAK),
    ],
    ids=str,
)
def test_two_hosts_equal_one_process(
    inputs: Path, tmp_path: Path, alone: list[float], ranks: int, layout: dict[str, Any]
) -> None:
    run = make_run(tmp_path / "run", inputs, f"2x{ranks}xcpu", steps=STEPS, **layout)
    with cluster_of(2, tmp_path, rate="1gbit") as cluster:
        launched = Launched(cluster, run, desk=cluster.hosts[0], hosts=cluster.hosts)
        assert launched.end() == 0, launched.said()
    assert farthest(alone, losses(run)) <= 3e-6


@pytest.mark.timeout(300)
def test_hosts_that_are_started_by_themselves(inputs: Path, tmp_path: Path, alone: list[float]) -> None:
    """As a scheduler does: the same command on each, with its node rank; the second one is even there first."""
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    with cluster_of(2, tmp_path, rate="1gbit") as cluster:
        started = [start_by_hand(cluster, run, node_rank) for node_rank in (1, 0)]
        until(lambda: all(one.poll() is not None for one in started), seconds=150, what=said(cluster))
        assert [one.returncode for one in started] == [0, 0], said(cluster)
    assert farthest(alone, losses(run)) <= 3e-6


def start_by_hand(cluster: Cluster, run: Path, node_rank: int, *words: str) -> "subprocess.Popen[bytes]":
    endpoint = f"{cluster.hosts[0].name}:29400"
    command = toolkit_words("launch", run, "--node-rank", node_rank, "--rdzv-endpoint", endpoint, "--preflight", "off")
    host = cluster.hosts[node_rank]
    return host.start([*command, *words], log="by-hand", env=environment(), cwd=ROOT)


def said(cluster: Cluster) -> str:
    return "\n".join(host.log("by-hand").read_text(encoding="utf-8") for host in cluster.hosts)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with cluster_of(2, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("hosts", "words", "told"),
    [
        ("alpha\nomega\n", [], "omega: ssh: Could not resolve hostname omega"),
        pytest.param("alpha\n", [], "names 1 host(s), the plan is for 2 nodes", marks=SOAK),
        pytest.param("alpha slots=1\nlocalhost slots=1\n", [], "localhost: is reached at", marks=SOAK),
        pytest.param("alpha\nbeta python=/tmp/no-python\n", [], "beta: ", marks=SOAK),
        pytest.param("alpha\nbeta\n", ["--nodes", "3:4"], "--nodes 3:4: the plan has 2 node(s)", marks=SOAK),
        pytest.param("alpha\n-oProxyCommand=x\n", [], "'-oProxyCommand=x' is no host name", marks=SOAK),
    ],
    ids=["unknown", "too few", "loopback", "no toolkit", "nodes", "option"],
)
def test_hosts_that_cannot_take_part_are_named(
    inputs: Path, tmp_path: Path, cluster: Cluster, hosts: str, words: list[str], told: str
) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    (tmp_path / "hosts").write_text(hosts, encoding="utf-8")
    command = toolkit_words("launch", run, "--hosts", tmp_path / "hosts", "--wait", "20", *words)
    done = cluster.hosts[0].run(command, env=environment(), cwd=ROOT, seconds=100)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "telemetry.jsonl").exists()


@pytest.mark.timeout(120)
def test_other_releases_are_told_with_the_host(inputs: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    # Another release of a library, as pip would leave it: its metadata come first on the path.
    other = tmp_path / "site" / "peft-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n", encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{other.parent}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "hosts").write_text(f"alpha\nbeta python={python}\n", encoding="utf-8")
    command = toolkit_words("launch", run, "--hosts", tmp_path / "hosts", "--wait", "20")
    done = cluster.hosts[0].run(command, env=environment(), cwd=ROOT, seconds=100)
    assert done.returncode == 2
    assert "has peft " in done.stderr
    assert "install the same releases on all hosts" in done.stderr


@pytest.mark.timeout(120)
def test_a_clock_that_is_wrong_is_told_with_the_host(inputs: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 3600\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "hosts").write_text(f"alpha\nbeta python={python}\n", encoding="utf-8")
    command = toolkit_words("launch", run, "--hosts", tmp_path / "hosts", "--wait", "20")
    done = cluster.hosts[0].run(command, env=environment(), cwd=ROOT, seconds=100)
    assert done.returncode == 2
    assert "beta: its clock is 3,600 s behind" in done.stderr


@pytest.mark.timeout(120)
def test_an_interface_that_is_not_there_is_told_with_the_host(inputs: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    command = toolkit_words("launch", run, "--hosts", cluster.hostfile(tmp_path / "hosts", slots=1))
    given = environment() | {"GLOO_SOCKET_IFNAME": "eth7"}
    done = cluster.hosts[0].run(command, env=given, cwd=ROOT, seconds=60)
    assert done.returncode == 2
    assert ": GLOO_SOCKET_IFNAME is eth7, which this host does not have; it has eth0, lo" in done.stderr


@pytest.mark.timeout(120)
def test_a_host_without_model_and_data_is_told(inputs: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    command = toolkit_words("launch", run, "--hosts", cluster.hostfile(tmp_path / "hosts", slots=1))
    over = ["mount", "-t", "tmpfs", "tmpfs", str(inputs)]
    assert cluster.hosts[1].run(over).returncode == 0
    done = cluster.hosts[0].run(command, env=environment(), cwd=ROOT, seconds=100)
    assert cluster.hosts[1].run(["umount", str(inputs)]).returncode == 0
    assert done.returncode == 2
    assert f"beta: not on this host: {inputs}/model, {inputs}/data.jsonl; copy them there" in done.stderr
    assert not (run / "telemetry.jsonl").exists()


@pytest.mark.timeout(120)
def test_a_port_in_use_and_a_controller_that_does_not_come(inputs: Path, tmp_path: Path, cluster: Cluster) -> None:
    run = make_run(tmp_path / "run", inputs, "2x1xcpu", steps=STEPS, zero_stage=1)
    taken = toolkit_words("launch", run, "--node-rank", 0, "--rdzv-endpoint", "alpha:22")
    done = cluster.hosts[0].run(taken, env=environment(), cwd=ROOT, seconds=60)
    assert done.returncode == 2
    assert "--rdzv-endpoint alpha:22: alpha cannot listen there (Address already in use)" in done.stderr
    alone = toolkit_words("launch", run, "--node-rank", 1, "--rdzv-endpoint", "alpha:29999", "--wait", "3")
    done = cluster.hosts[1].run(alone, env=environment(), cwd=ROOT, seconds=60)
    assert done.returncode == 2
    assert "--rdzv-endpoint alpha:29999: no controller there for 3 s" in done.stderr
