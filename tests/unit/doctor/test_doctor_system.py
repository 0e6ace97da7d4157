"""Compiler, memory, limits, disks and network of machines that are not this one."""

import importlib.util
import re
from pathlib import Path

import pytest

from toolkit.doctor.interpreter import container_of, is_wsl, judge_python, judge_system
from toolkit.doctor.limits import judge_limits
from toolkit.doctor.machine import Machine
from toolkit.doctor.memory import (
    SHM_PER_RANK,
    cpu_features,
    examine_memory,
    group_limits,
    judge_shm,
    parse_meminfo,
)
from toolkit.doctor.memory import (
    judge_limits as judge_group,
)
from toolkit.doctor.network import Lookup, infiniband_states, judge_names, judge_ports
from toolkit.doctor.storage import examine_storage, folder_bytes, hub_cache, judge_place, mount_of, parse_mounts
from toolkit.doctor.toolchain import Toolchain, judge_compiler, judge_cuda, nvcc_suits, parse_compiler, parse_nvcc
from toolkit.units import GiB, MiB

CPU_TORCH = {"cuda": None, "devices": []}
GPU_TORCH = {"cuda": "12.8", "devices": [{"name": "NVIDIA H100 80GB HBM3", "memory": 1, "capability": "9.0"}]}
COMPLETE = Toolchain("g++", "12.2.0", True, True, True, True, "12.8")


def put(machine: Machine, name: str, text: str) -> None:
    path = machine.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# Toolchain


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022", "12.2.0"),
        ("g++ (GCC) 8.5.0 20210514 (Red Hat 8.5.0-4)\n", "8.5.0"),
        ("Ubuntu clang version 18.1.3 (1ubuntu1)\nTarget: x86_64-pc-linux-gnu", "18.1.3"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "15.0.0"),
        ("", None),
        ("bash: g++: command not found", None),
    ],
)
def test_releases_of_compilers(text: str, release: str | None) -> None:
    assert parse_compiler(text) == release


def test_the_release_of_the_cuda_toolkit() -> None:
    assert parse_nvcc("Copyright (c) 2005-2025\nCuda compilation tools, release 12.8, V12.8.93\n") == "12.8"
    assert parse_nvcc("nvcc: not found") is None


def changed(**fields: object) -> Toolchain:
    return Toolchain(**{**COMPLETE.__dict__, **fields})


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (changed(compiler_release=None), "no-compiler"),
        (changed(compiler_release="8.5.0"), "old-compiler"),
        (changed(ninja=False), "no-ninja"),
        (changed(headers=False), "no-python-headers"),
    ],
)
def test_what_keeps_ops_from_being_compiled(found: Toolchain, rule: str) -> None:
    (on_cpu,) = judge_compiler(found, CPU_TORCH, system="linux")
    (on_gpu,) = judge_compiler(found, GPU_TORCH, system="linux")
    assert (on_cpu.severity, on_cpu.rule) == ("error", rule)  # no run on processors without compiled collectives
    assert (on_gpu.severity, on_gpu.rule) == ("warning", rule)  # torch has an AdamW of its own
    assert not list(judge_compiler(found, {}, system="linux"))  # a desk compiles nothing


def test_libaio_is_for_disks_only() -> None:
    (found,) = judge_compiler(changed(libaio_header=False), CPU_TORCH, system="linux")
    assert (found.severity, found.rule, found.command) == ("note", "no-libaio", "sudo apt install libaio-dev")
    assert not list(judge_compiler(COMPLETE, CPU_TORCH, system="linux"))


@pytest.mark.parametrize(
    ("nvcc", "torch_cuda", "suits"),
    [("12.8", "12.8", True), ("12.4", "12.8", True), ("13.0", "12.8", False), ("13.0", "13.1", False)],
)
def test_nvcc_against_the_cuda_of_torch_as_deepspeed_has_it(nvcc: str, torch_cuda: str, suits: bool) -> None:
    assert nvcc_suits(nvcc, torch_cuda) == suits


def test_cuda_toolkits_that_do_not_suit(nowhere: Machine) -> None:
    def rules(found: Toolchain, torch: dict[str, object] = GPU_TORCH) -> list[str]:
        return [one.rule for one in judge_cuda(found, torch, nowhere)]

    assert rules(COMPLETE) == []
    assert rules(changed(nvcc_release="13.0")) == ["cuda-mismatch"]
    assert rules(changed(nvcc_release=None)) == ["no-nvcc"]
    assert rules(changed(nvcc_release="12.2", compiler_release="13.2.0")) == ["compiler-too-new"]
    assert rules(changed(nvcc_release=None), CPU_TORCH) == []


def deepspeed_file(name: str) -> str:
    """Text of a file of DeepSpeed's, which is not imported."""
    spec = importlib.util.find_spec("deepspeed")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("DeepSpeed is not installed")
    return (Path(spec.submodule_search_locations[0]) / name).read_text(encoding="utf-8")


def test_the_rule_about_nvcc_is_deepspeed_s_own() -> None:
    source = deepspeed_file("ops/op_builder/builder.py")
    table = source[source.index("cuda_minor_mismatch_ok = {") : source.index("def assert_no_cuda_mismatch")]
    known = {major: re.findall(r'"([\d.]+)"', line) for major, line in re.findall(r"^    (\d+): (\[.*\])", table, re.M)}
    assert known.keys() == {"10", "11", "12"}
    for releases in (known["11"], known["12"]):
        assert all(nvcc_suits(nvcc, torch_cuda) for nvcc in releases for torch_cuda in releases)


# Memory


def test_limits_of_control_groups_of_both_versions(nowhere: Machine) -> None:
    assert group_limits(nowhere) == {}
    put(nowhere, "proc/self/cgroup", "0::/user.slice/job.scope\n")
    put(nowhere, "sys/fs/cgroup/user.slice/job.scope/memory.max", "max\n")
    put(nowhere, "sys/fs/cgroup/user.slice/memory.max", f"{8 * GiB}\n")  # a limit of a group around it
    put(nowhere, "sys/fs/cgroup/user.slice/job.scope/cpu.max", "150000 100000\n")
    put(nowhere, "sys/fs/cgroup/user.slice/job.scope/pids.max", "512\n")
    put(nowhere, "sys/fs/cgroup/user.slice/job.scope/memory.events", "low 0\noom 4\noom_kill 3\n")
    assert group_limits(nowhere) == {"memory": 8 * GiB, "processors": 1.5, "processes": 512, "oom_kills": 3}


def test_limits_of_version_1_whose_path_is_the_host_s(nowhere: Machine) -> None:
    put(nowhere, "proc/self/cgroup", "4:memory:/docker/1234\n3:cpu,cpuacct:/docker/1234\n")
    put(nowhere, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GiB}\n")
    put(nowhere, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    put(nowhere, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert group_limits(nowhere) == {"memory": 2 * GiB}
    put(nowhere, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # its word for no limit
    assert group_limits(nowhere) == {}


def test_what_limits_mean() -> None:
    free = {"memory": 64 * GiB, "memory_limit": None, "out_of_memory_kills": 0, "processors": 8}
    assert not list(judge_group(free))
    given = {**free, "memory_limit": GiB, "out_of_memory_kills": 2, "processor_limit": 2.5, "process_limit": 100}
    found = list(judge_group(given))
    assert [one.rule for one in found] == ["little-memory", "oom-kills", "processor-limit", "process-limit"]
    assert found[2].command == "export OMP_NUM_THREADS=2"


@pytest.mark.parametrize(
    ("size", "free", "container", "severity", "remedy"),
    [
        (64 * MiB, 64 * MiB, "docker", "error", "--shm-size"),
        (64 * MiB, 64 * MiB, "kubernetes", "error", "emptyDir"),
        (16 * GiB, 10 * MiB, None, "error", "remove what dead processes"),
        (512 * MiB, 512 * MiB, "podman", "warning", "podman run"),
        (None, None, None, "error", "mount"),
    ],
)
def test_room_in_dev_shm(size: int | None, free: int | None, container: str | None, severity: str, remedy: str) -> None:
    (found,) = judge_shm({"shm": size, "shm_free": free}, container=container, system="linux")
    assert found.severity == severity
    assert remedy in f"{found.remedy} {found.command}"


def test_enough_shm_and_systems_without_it() -> None:
    assert not list(judge_shm({"shm": 8 * GiB, "shm_free": 8 * GiB}, container=None, system="linux"))
    assert not list(judge_shm({}, container=None, system="darwin"))


def test_a_rank_s_share_of_shm_is_deepspeed_s() -> None:
    source = deepspeed_file("ops/csrc/cpu/comm/shm.cpp")
    assert "#define MAX_BUF_SIZE 1048576 * 32\n" in source
    assert "char buffer[2 * NAIVE_ALLREDUCE_THRESHOLD + 2 * MAX_BUF_SIZE];" in source
    assert 2 * 32 * MiB + 2 * MiB == SHM_PER_RANK


def test_files_of_the_system_that_are_read() -> None:
    assert parse_meminfo("MemTotal:       16384 kB\nHugePages_Total:  0\nMemAvailable: 1024 kB\n") == {
        "MemTotal": 16 * MiB,
        "MemAvailable": MiB,
    }
    assert cpu_features("processor : 0\nflags\t\t: fpu avx2 avx512f amx_bf16 xyz\n") == ["avx2", "avx512f", "amx_bf16"]
    assert cpu_features("processor: 0\nFeatures : fp asimd sve bf16\n") == ["sve", "bf16"]


def test_a_system_without_proc_is_told_less_and_nothing_breaks(nowhere: Machine) -> None:
    mac = Machine(nowhere.root, {}, nowhere.folder, nowhere.home, "darwin")
    section = examine_memory(mac)
    assert section.facts["memory"] is None
    assert not section.findings


# Limits of the shell


def test_limits_of_the_shell() -> None:
    def rules(gpus: bool = False, infiniband: bool = False, **limits: tuple[int | None, int | None]) -> list[str]:
        return [f"{one.severity} {one.rule}" for one in judge_limits(limits, gpus=gpus, infiniband=infiniband)]

    assert rules(nofile=(1024, 4096), nproc=(4096, None), memlock=(65536, 65536)) == []
    assert rules(nofile=(256, 4096)) == ["warning open-files"]
    assert rules(nproc=(100, 100)) == ["warning processes"]
    assert rules(infiniband=True, memlock=(65536, 65536)) == ["warning locked-memory"]
    assert rules(infiniband=True, memlock=(None, None)) == []
    assert rules(gpus=True, **{"as": (8 * GiB, None)}) == ["error address-space"]
    assert rules(fsize=(MiB, None), cpu=(3600, None)) == ["error file-size", "warning cpu-time"]
    (found,) = judge_limits({"nofile": (256, 4096)}, gpus=False, infiniband=False)
    assert found.command == "ulimit -n 4096"  # no more than the hard limit


# Disks

MOUNTS = """/dev/sda1 / ext4 rw,relatime 0 0
server:/export /data\\040sets nfs4 rw,noexec 0 0
tmpfs /run tmpfs rw,nosuid 0 0
overlay /run overlay rw 0 0
"""


def test_which_disk_a_folder_is_on() -> None:
    mounts = parse_mounts(MOUNTS)
    assert mount_of(Path("/data sets/run"), mounts) == ("nfs4", frozenset({"rw", "noexec"}))
    assert mount_of(Path("/usr/lib"), mounts)[0] == "ext4"
    assert mount_of(Path("/run/user"), mounts)[0] == "overlay"  # mounted over the other
    assert mount_of(Path("/usr"), []) == ("", frozenset())


def place(**fields: object) -> dict[str, object]:
    usual = {"free": 500 * GiB, "free_files": 10**6, "network": False, "disk": "ext4", "runs_programs": True}
    return {**usual, "writable": True, **fields}


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("current folder", {}, []),
        ("current folder", {"free": 5 * GiB}, ["warning little-disk"]),
        ("current folder", {"free": 100 * MiB}, ["error little-disk"]),
        ("current folder", {"writable": False}, ["warning not-writable"]),
        ("Hugging Face cache", {"free": 100 * MiB}, ["warning little-disk"]),
        ("temporary files", {"free": 100 * MiB}, ["error little-disk"]),
        ("current folder", {"free_files": 7}, ["warning few-files"]),
        ("compiled ops", {"network": True, "disk": "nfs4"}, ["note network-disk"]),
        ("compiled ops", {"runs_programs": False}, ["error noexec"]),
    ],
)
def test_what_a_disk_means(name: str, fields: dict[str, object], told: list[str]) -> None:
    assert [f"{one.severity} {one.rule}" for one in judge_place(name, Path("there"), place(**fields))] == told


def test_the_cache_is_looked_for_as_the_hub_s_library_does(nowhere: Machine) -> None:
    def cache(**environment: str) -> Path:
        return hub_cache(Machine(nowhere.root, environment, nowhere.folder, nowhere.home, "linux"))

    assert cache() == nowhere.home / ".cache/huggingface/hub"
    assert cache(XDG_CACHE_HOME="/c") == Path("/c/huggingface/hub")
    assert cache(XDG_CACHE_HOME="/c", HF_HOME="/h") == Path("/h/hub")
    assert cache(HF_HOME="/h", HUGGINGFACE_HUB_CACHE="/old", HF_HUB_CACHE="/new") == Path("/new")


def test_the_cache_s_size_and_variables(nowhere: Machine) -> None:
    blobs = nowhere.home / ".cache/huggingface/hub/models--a--b/blobs"
    blobs.mkdir(parents=True)
    (blobs / "done").write_bytes(b"x" * 1000)
    (blobs / "half.incomplete").write_bytes(b"x" * 24)
    (blobs / "again").symlink_to(blobs / "done")
    environment = {"HF_TOKEN": "hf_abcdefghijklmnop", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_CACHE": "/old"}
    section = examine_storage(Machine(nowhere.root, environment, nowhere.folder, nowhere.home, "linux"))
    assert (section.facts["cache_bytes"], section.facts["cache_unfinished_downloads"]) == (1024, 1)
    assert (section.facts["hub_token"], section.facts["offline"]) == (True, True)
    assert {"offline", "old-cache-variable", "unfinished-downloads"} <= {one.rule for one in section.findings}
    assert "hf_abc" not in str(section)
    assert folder_bytes(blobs, seconds=-1.0) == (0, False)  # no time: said so


# Network


def test_names_of_the_host() -> None:
    local = Lookup(("127.0.0.1", "::1"), 0.0, None)

    def rules(own: Lookup, ours: dict[str, bool], localhost: Lookup = local) -> list[str]:
        return [f"{one.severity} {one.rule}" for one in judge_names(own, localhost, ours)]

    assert rules(Lookup(("10.0.0.5",), 0.0, None), {"10.0.0.5": True}) == []
    assert rules(Lookup(("10.0.0.5",), 0.0, None), {"10.0.0.5": False}) == ["warning host-name-elsewhere"]
    assert rules(Lookup(("127.0.1.1",), 0.0, None), {"127.0.1.1": True}) == ["note host-name-loopback"]
    assert rules(Lookup((), 2.0, "no answer in 2 s"), {}) == ["warning host-name"]
    assert rules(Lookup(("10.0.0.5",), 1.7, None), {"10.0.0.5": True}) == ["warning slow-names"]
    lost = Lookup((), 0.0, "Name or service not known")
    assert rules(Lookup(("10.0.0.5",), 0.0, None), {"10.0.0.5": True}, lost) == ["error localhost"]
    strange = Lookup(("93.184.216.34",), 0.0, None)
    assert rules(Lookup(("10.0.0.5",), 0.0, None), {"10.0.0.5": True}, strange) == ["error localhost"]


def test_ports_and_adapters(nowhere: Machine) -> None:
    assert not list(judge_ports(True))
    assert [one.rule for one in judge_ports(False)] == ["port-taken"]
    put(nowhere, "sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n")
    put(nowhere, "sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n")
    assert infiniband_states(nowhere) == ["ACTIVE", "DOWN"]


# The system itself


def test_systems_on_which_nothing_trains() -> None:
    def rules(system: str, libc: str | None, wide: bool = True) -> list[str]:
        return [f"{one.severity} {one.rule}" for one in judge_system(system, libc, wide=wide)]

    assert rules("linux", "glibc 2.36") == []
    assert rules("linux", None) == []  # not known is not wrong
    assert rules("linux", "glibc 2.17") == ["error old-glibc"]
    assert rules("linux", "musl") == ["error no-glibc"]
    assert rules("linux", "glibc 2.36", wide=False) == ["error 32-bit"]
    assert rules("darwin", None) == ["warning not-linux"]
    assert rules("win32", None) == ["error not-linux"]


def test_pythons_that_are_in_the_way(nowhere: Machine) -> None:
    usual = {"implementation": "CPython", "encoding": "UTF-8", "wsl": False}
    assert not list(judge_python(usual, nowhere))
    (found,) = judge_python({**usual, "implementation": "PyPy"}, nowhere)
    assert found.rule == "not-cpython"
    (found,) = judge_python({**usual, "encoding": "ANSI_X3.4-1968"}, nowhere)
    assert (found.rule, found.command) == ("not-utf8", "export PYTHONUTF8=1")
    (found,) = judge_python({**usual, "wsl": True}, nowhere)
    assert found.rule == "wsl"


def test_containers_and_wsl(nowhere: Machine) -> None:
    assert container_of(nowhere) is None
    assert not is_wsl(nowhere)
    put(nowhere, "proc/self/cgroup", "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-1.scope\n")
    assert container_of(nowhere) == "kubernetes"
    put(nowhere, ".dockerenv", "")
    assert container_of(nowhere) == "docker"
    put(nowhere, "proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
    assert is_wsl(nowhere)
