"""What is found on a machine: GPUs by the driver's files and CUDA_VISIBLE_DEVICES, else processors and their memory."""

import functools
from pathlib import Path

import pytest

from toolkit.errors import MachineError
from toolkit.specs import cluster, machine
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up / with 24 GiB of memory, 12 processors and no GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(cluster, "gpu_names", functools.partial(machine.gpu_names, tmp_path))
    monkeypatch.setattr(cluster, "cpu_limits", functools.partial(machine.cpu_limits, tmp_path))
    (tmp_path / "proc").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal:       {24 * 1024**2} kB\nMemFree: 1 kB\n")
    return tmp_path


def add_gpu(root: Path, minor: int, model: str, *, device_file: bool = True) -> None:
    folder = root / f"proc/driver/nvidia/gpus/0000:{minor:02x}:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(
        f"Model: \t\t {model}\nIRQ:   \t\t 16\nGPU UUID: \t GPU-{minor}e91dfa4-fcc4\nBus Type: \t PCIe\n"
        f"Bus Location: \t 0000:{minor:02x}:00.0\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
    )
    if device_file:
        (root / f"dev/nvidia{minor}").touch()
    (root / "dev/nvidiactl").touch()
    (root / "dev/nvidia-uvm").touch()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-80GB-PCIe"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB-PCIe"),
        ("NVIDIA A800-SXM4-80GB", "A800-80GB"),
        ("NVIDIA H100 NVL", "H100-94GB-NVL"),
        ("NVIDIA H800", "H800"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA GB300", "GB300"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada-48GB"),
        ("NVIDIA RTX A5000", "RTXA5000-24GB"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER-16GB"),
        ("Tesla V100-PCIE-16GB", "V100-16GB-PCIe"),
        ("NVIDIA H200", "H200-141GB"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX A6000", "A6000-48GB"),
        ("NVIDIA GeForce RTX 3090", "RTX3090-24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX4090-24GB"),
        ("NVIDIA GeForce RTX 5090", "RTX5090"),
    ],
)
def test_driver_names_are_known(root: Path, model: str, name: str) -> None:
    add_gpu(root, 0, model)
    add_gpu(root, 1, model)
    assert ClusterSpec.detect() == ClusterSpec.resolve(f"2x{name}")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, 4),
        ("0,1", 2),
        ("3", 1),
        ("0, 2,3", 3),
        ("0,9,1", 1),
        ("GPU-1e91,GPU-2e91dfa4-fcc4", 2),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
    ],
)
def test_visible_devices_are_honoured(
    root: Path, visible: str | None, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minor in range(4):
        add_gpu(root, minor, "NVIDIA L4")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ClusterSpec.detect().name == (f"{gpus}xL4" if gpus else "2xcpu")


def test_a_container_sees_only_its_own_gpus(root: Path) -> None:
    for minor in range(8):
        add_gpu(root, minor, "NVIDIA H200", device_file=minor in (2, 5))
    assert ClusterSpec.detect().name == "2xH200-141GB"


def test_a_chosen_kind_out_of_two(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_gpu(root, 0, "NVIDIA L4")
    add_gpu(root, 1, "Tesla T4")
    with pytest.raises(MachineError, match=r"NVIDIA L4 and Tesla T4.*CUDA_VISIBLE_DEVICES"):
        ClusterSpec.detect()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert ClusterSpec.detect().name == "1xT4"


def test_unknown_gpu_asks_for_the_option(root: Path) -> None:
    add_gpu(root, 0, "NVIDIA GeForce RTX 4090 D")
    with pytest.raises(MachineError, match=r"'NVIDIA GeForce RTX 4090 D'.*RTX4090-24GB.*--cluster"):
        ClusterSpec.detect()


def test_nameless_gpu_asks_for_the_option(root: Path) -> None:
    (root / "dev/nvidia0").touch()
    with pytest.raises(MachineError, match="--cluster"):
        ClusterSpec.detect()


def test_parts_of_a_gpu_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_gpu(root, 0, "NVIDIA H200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-8d0f1c6e")
    with pytest.raises(MachineError, match="MIG"):
        ClusterSpec.detect()


def test_without_gpus_two_processes_share_the_memory(root: Path) -> None:
    spec = ClusterSpec.detect()
    assert (spec.name, spec.world_size, spec.device.kind) == ("2xcpu", 2, "cpu")
    assert (spec.device.memory_bytes, spec.host_memory_bytes) == (12 * GiB, 24 * GiB)


def test_one_processor_is_one_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {3}, raising=False)
    spec = ClusterSpec.detect()
    assert (spec.name, spec.device.memory_bytes) == ("1xcpu", 24 * GiB)


@pytest.mark.parametrize(
    ("file", "text", "gib"),
    [
        ("memory.max", "8589934592\n", 8),
        ("memory.max", "max\n", 24),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 24),
        ("memory/memory.limit_in_bytes", "4294967296\n", 4),
    ],
)
def test_a_containers_limit_counts(root: Path, file: str, text: str, gib: int) -> None:
    path = root / "sys/fs/cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert ClusterSpec.detect().host_memory_bytes == gib * GiB


def test_detect_answers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = ClusterSpec.detect()
    assert spec.device.kind == "cpu"
    assert spec.device.memory_bytes * spec.world_size <= spec.host_memory_bytes


def test_free_memory_is_what_the_kernel_and_the_container_leave(root: Path) -> None:
    assert machine.free_memory(root) == 0
    with (root / "proc/meminfo").open("a") as file:
        file.write(f"MemAvailable: {20 * 1024**2} kB\n")
    assert machine.free_memory(root) == 20 * GiB
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(f"{3 * GiB}\n")
    assert machine.free_memory(root) == 20 * GiB
    (group / "memory.max").write_text(f"{8 * GiB}\n")
    assert machine.free_memory(root) == 5 * GiB
