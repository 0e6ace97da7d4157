"""nvidia-smi's texts of several kinds of machines, and what follows from them."""

import pytest

from toolkit.doctor.gpu_health import judge_gpu, judge_xids, parse_xids
from toolkit.doctor.gpus import has_code_for, judge_devices, judge_driver, judge_torch
from toolkit.doctor.machine import Machine
from toolkit.doctor.nvidia_smi import Driver, Gpu, parse_capabilities, parse_driver
from toolkit.doctor.programs import NOT_STARTED, Ended
from toolkit.units import MiB
from unit.doctor import smi_texts

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory": 84_920_000_000, "capability": "9.0"}


def parsed(*gpus: str) -> Driver:
    found = parse_driver(smi_texts.xml(*gpus))
    assert found is not None
    return found


def rules(gpu: Gpu) -> set[str]:
    return {one.rule for one in judge_gpu(gpu)}


def test_a_healthy_board_of_hoppers_has_no_findings() -> None:
    driver = parsed(smi_texts.hopper(), smi_texts.hopper())
    assert (driver.release, driver.cuda, len(driver.gpus)) == ("550.54.15", "12.4", 2)
    gpu = driver.gpus[1]
    assert (gpu.index, gpu.name, gpu.memory, gpu.used) == (1, "NVIDIA H100 80GB HBM3", 81559 * MiB, 4 * MiB)
    assert (gpu.width, gpu.most_width, gpu.mig_parts, gpu.uncorrected, gpu.fabric) == (16, 16, None, 0, "Completed")
    assert not rules(gpu)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"used": 40_000}, "gpu-in-use"),
        ({"fabric": "In Progress"}, "fabric-manager"),
        ({"pending": "Yes"}, "gpu-wants-reset"),
        ({"failure": "Yes"}, "gpu-damaged"),
        ({"lost": 3}, "gpu-memory-errors"),
    ],
)
def test_each_fault_of_a_hopper_is_told_once(changed: dict[str, object], rule: str) -> None:
    (gpu,) = parsed(smi_texts.hopper(**changed)).gpus  # type: ignore[arg-type]
    assert rules(gpu) == {rule}


def test_parts_of_a_gpu() -> None:
    (gpu,) = parsed(smi_texts.AMPERE_MIG).gpus
    assert gpu.mig_parts == (19968 * MiB, None)
    assert (gpu.used, gpu.uncorrected, gpu.failing, gpu.fabric) == (None, None, False, None)
    (found,) = judge_gpu(gpu)
    assert found.rule == "mig"
    assert "2 parts by MIG: 19.5 GiB, ?" in found.message


def test_a_workstation_that_is_hot_busy_and_on_four_lanes() -> None:
    (gpu,) = parsed(smi_texts.GEFORCE).gpus
    assert gpu.slowed_by == ("the hardware", "heat")  # its power limit is as it was wished
    assert (gpu.num_processes, gpu.uncorrected, gpu.wants_reset) == (1, None, False)
    assert rules(gpu) == {"gpu-in-use", "compute-mode", "pcie-lanes", "gpu-slowed"}


def test_the_keys_of_an_old_driver() -> None:
    (gpu,) = parsed(smi_texts.VOLTA).gpus
    assert (gpu.uncorrected, gpu.wants_reset, gpu.mig_parts, gpu.width) == (2, True, None, None)
    assert rules(gpu) == {"gpu-memory-errors"}


def test_a_gpu_without_memory_of_its_own() -> None:
    (gpu,) = parsed(smi_texts.SHARED_MEMORY).gpus
    assert (gpu.memory, gpu.used, gpu.compute_mode) == (None, None, "Default")
    assert not rules(gpu)


@pytest.mark.parametrize("text", ["", "No devices were found", "<?xml version='1.0'?><cut", "\x00\xff"])
def test_what_is_no_log_is_none(text: str) -> None:
    assert parse_driver(text) is None


def test_warnings_before_the_log_are_passed_over() -> None:
    assert parse_driver("WARNING: infoROM is corrupted\n" + smi_texts.xml(smi_texts.hopper())) is not None


def test_capabilities_are_none_from_a_driver_that_does_not_know_them() -> None:
    assert parse_capabilities("9.0\n9.0\n") == ["9.0", "9.0"]
    assert parse_capabilities('Field "compute_cap" is not a valid field to query.\n') == []


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.54", "sudo reboot"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "sudo modprobe nvidia"),
        ("Failed to initialize NVML: Unknown Error", ""),
        ("Unable to determine the device handle for GPU0000:41:00.0: Unknown Error", "sudo reboot"),
        ("No devices were found", ""),
        ("something new", ""),
    ],
)
def test_a_driver_that_fails_is_an_error_in_its_own_words(said: str, command: str) -> None:
    (found,) = judge_driver(None, Ended(9, said, "", 0.1), ["NVIDIA"])
    assert (found.severity, found.rule, found.command) == ("error", "driver-fails", command)
    assert said.splitlines()[0] in found.message


def test_a_driver_that_hangs_and_one_that_is_not_there() -> None:
    (found,) = judge_driver(None, Ended(-9, "", "", 30.0, True), ["NVIDIA"])
    assert found.rule == "driver-hangs"
    (found,) = judge_driver(None, NOT_STARTED, ["NVIDIA", "NVIDIA", "AMD"])
    assert found.rule == "no-driver"
    assert "2 NVIDIA GPUs" in found.message
    assert not list(judge_driver(None, NOT_STARTED, ["AMD"]))


def torch_rules(torch: dict[str, object], machine: Machine, **environment: str) -> list[str]:
    driver = parsed(smi_texts.hopper(), smi_texts.hopper())
    given = Machine(machine.root, environment, machine.folder, machine.home, "linux")
    return [one.rule for one in judge_torch(driver, torch, given)]


def test_whether_torch_can_use_the_gpus(nowhere: Machine) -> None:
    works = {"cuda": "12.8", "gpus_usable": True, "devices": [H100, H100]}
    assert torch_rules(works, nowhere) == []
    assert torch_rules({"cuda": None, "hip": None}, nowhere) == ["torch-without-cuda"]
    assert torch_rules(works | {"devices": [H100]}, nowhere) == ["gpus-missing"]
    assert torch_rules(works | {"devices": [H100]}, nowhere, CUDA_VISIBLE_DEVICES="1") == []
    broken = {
        "cuda": "13.0",
        "gpus_usable": False,
        "gpu_warning": "CUDA initialization: Error 802: not yet",
        "devices": [],
    }
    assert torch_rules(broken, nowhere) == ["cuda-fails"]
    assert torch_rules(broken, nowhere, CUDA_VISIBLE_DEVICES="") == []
    assert torch_rules({}, nowhere) == []
    assert torch_rules({"error": "no"}, nowhere) == []


def test_a_torch_that_is_too_new_for_the_driver_is_told_so(nowhere: Machine) -> None:
    torch = {"cuda": "13.0", "gpus_usable": False, "gpu_warning": None, "devices": []}
    (found,) = judge_torch(parsed(smi_texts.hopper()), torch, nowhere)
    assert "the driver runs CUDA 12.4 and older" in found.remedy


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ("8.6", ["sm_80", "sm_90"], True),
        ("9.0", ["sm_80", "sm_86"], False),
        ("9.0", ["sm_80", "compute_80"], True),
        ("12.0", ["sm_90", "sm_90a"], False),
        ("9.0", ["sm_90a"], True),
        ("10.3", ["sm_100"], True),
        ("10.3", ["sm_100a"], False),
        ("10.3", ["sm_100f"], True),
        ("6.1", ["sm_75", "compute_75"], False),
        ("9.0", ["gfx942"], False),
    ],
)
def test_which_gpus_a_build_of_torch_has_code_for(capability: str, architectures: list[str], runs: bool) -> None:
    assert has_code_for(capability, architectures) == runs


def test_devices_are_judged_once_per_kind() -> None:
    old = {"name": "Tesla P40", "memory": 1, "capability": "6.1"}
    torch = {"cuda": "12.8", "architectures": ["sm_75", "sm_80", "compute_120"], "devices": [old, old]}
    assert [one.rule for one in judge_devices(torch)] == ["no-code-for-gpu", "no-bf16"]
    assert [one.rule for one in judge_devices({"hip": "6.3", "devices": [H100]})] == ["rocm"]


def test_xids_of_the_hardware_are_told_and_those_of_programs_are_not() -> None:
    log = (
        "[1.0] NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.\n"
        "[2.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"
        "[3.0] NVRM: Xid (PCI:0000:83:00): 31, pid=9, name=exe, Ch 0000000a, intr 00000000. MMU Fault\n"
        "[4.0] eth0: link up\n"
    )
    assert parse_xids(log) == {79: 2, 31: 1}
    (found,) = judge_xids(parse_xids(log))
    assert "Xid 79 of a GPU, 2 times" in found.message
