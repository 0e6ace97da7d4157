"""`toolkit calibrate` as a user runs it: measured rates that a plan uses, and one message where it cannot measure."""

import functools
import getpass
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import yaml

from procs import run_ranks as run_body
from ranks.measured import rates_without_time, what_counts_of_a_collective
from toolkit import errors
from toolkit.launcher import RanksHere, run_ranks
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.measurements import Collective

pytestmark = pytest.mark.ranks
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


def calibrate(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", "calibrate", *map(str, words)]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    result = calibrate("-o", "machine.yaml", "--ranks", 2, "--budget", 30, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "machine.yaml" in result.stdout
    assert "TFLOP/s" in result.stdout
    return folder / "machine.yaml"


@pytest.mark.soak
def test_the_file_is_a_cluster_of_measured_rates(measured: Path) -> None:
    cluster = ClusterSpec.resolve(str(measured))
    rates = cluster.measured
    assert rates is not None
    assert (cluster.gpus_per_node, cluster.device.kind) == (2, "cpu")
    shapes = {(one.m, one.n, one.k) for one in rates.matmuls}
    assert len(shapes) == len(rates.matmuls) >= 15
    kinds = {one.kind for one in rates.collectives}
    assert {"all_reduce", "all_gather", "broadcast", "p2p"} <= kinds
    assert {one.num_ranks for one in rates.collectives} == {2}
    assert rates.disk_write
    assert rates.op_seconds
    assert rates.host_to_device is None
    assert cluster.device.fp32_flops == max(one.flops_per_second for one in rates.matmuls)


@pytest.mark.soak
def test_the_rates_are_physical(measured: Path) -> None:
    # Bounds that no processor of today leaves: a unit that is wrong by 1000 is found.
    rates = ClusterSpec.resolve(str(measured)).measured
    assert rates is not None
    assert all(1e8 < one.flops_per_second < 1e14 for one in rates.matmuls)
    assert 2e8 < (rates.memory_bandwidth or 0) < 1e13
    assert 1e8 < (rates.adam_bandwidth or 0) < 1e13
    assert 1e-7 < (rates.op_seconds or 0) < 1e-3
    largest = max((one for one in rates.collectives if one.kind == "broadcast"), key=lambda one: one.num_bytes)
    assert 2e7 < largest.num_bytes / largest.seconds < 1e12


@pytest.mark.soak
def test_nothing_else_is_left_and_nothing_tells_where_it_ran(measured: Path) -> None:
    assert [path.name for path in measured.parent.iterdir()] == ["machine.yaml"]
    made_with = yaml.safe_load(measured.read_text())["measured"]["made_with"]
    assert "gloo" in made_with
    assert "2 rank(s)" in made_with
    for word in (os.uname().nodename, getpass.getuser(), str(Path.home())):
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", measured.read_text())


def test_every_kind_is_measured_however_busy_the_machine() -> None:
    (matmuls, collectives), _ = run_body(rates_without_time, 2)
    assert len(matmuls) >= 15
    largest = {one.kind: max(two.num_bytes for two in collectives if two.kind == one.kind) for one in collectives}
    assert largest == dict.fromkeys(get_args(Collective), 2**20)


def test_a_collective_between_hosts_takes_what_the_slowest_of_its_ranks_does() -> None:
    one_way, in_turns, alone = run_body(what_counts_of_a_collective, 2)[0]
    assert one_way == pytest.approx(0.05, rel=0.3)
    assert in_turns == pytest.approx(0.05, rel=0.3)
    assert alone < 0.01


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    before = tmp_path / "machine.yaml"
    before.write_text("name: mine\n")
    result = calibrate("-o", "machine.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    assert before.read_text() == "name: mine\n"


@pytest.mark.soak
def test_one_rank_has_no_collectives(tmp_path: Path) -> None:
    result = calibrate("-o", tmp_path / "one.yaml", "--ranks", 1, "--budget", 5, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    cluster = ClusterSpec.resolve(str(tmp_path / "one.yaml"))
    assert cluster.measured is not None
    assert cluster.measured.collectives == ()
    assert cluster.measured.matmuls


def start_and_find_ranks(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A calibration and the ids of its two ranks, once they measure."""
    command = [sys.executable, "-m", "toolkit", "calibrate", "-o", "m.yaml", "--ranks", "2", "--budget", "60"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells let what they start in the background ignore Ctrl-C, and that is inherited.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "measuring" in process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return process, [int(child) for child in children]


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_killed_rank_ends_all_with_one_message(tmp_path: Path) -> None:
    process, ranks = start_and_find_ranks(tmp_path)
    os.kill(ranks[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.startswith("error: rank 1 was killed by SIGKILL")
    assert len(stderr.splitlines()) == 1
    assert gone(ranks[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_all_and_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process, ranks = start_and_find_ranks(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert all(map(gone, ranks))
    assert not list(tmp_path.iterdir())


def test_ranks_that_hang_are_ended(tmp_path: Path) -> None:
    with pytest.raises(errors.EngineError, match=r"2 rank\(s\) had not ended after 2 s"):
        run_ranks(
            "timeit",
            ["-n1", "-r1", "import time; time.sleep(60)"],
            here=RanksHere(2, "cpu"),
            logs=tmp_path,
            timeout_s=2,
        )


def test_a_rank_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(errors.EngineError, match=r"rank [01] ended with exit code 1: .*no_such_module"):
        run_ranks("toolkit.no_such_module", [], here=RanksHere(2, "cpu"), logs=tmp_path, timeout_s=60)
