"""The GPUs: what the driver says of them, and whether torch can use them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.doctor.explained import explain
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.gpu_health import judge_gpu
from toolkit.doctor.machine import Machine
from toolkit.doctor.nvidia_smi import Driver, parse_driver
from toolkit.doctor.programs import Ended
from toolkit.doctor.told import Told
from toolkit.units import human_bytes

_PCI_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x1ed5": "Moore Threads"}
_DRIVER_FAILURES = (
    (
        r"Driver/library version mismatch",
        "the driver was updated and the old one still runs",
        "reboot, or unload and load the nvidia modules",
        "sudo reboot",
    ),
    (
        r"couldn't communicate with the NVIDIA driver|driver is not loaded",
        "the kernel has no NVIDIA driver loaded, as after an update of the kernel",
        "install the driver for this kernel, then load it",
        "sudo modprobe nvidia",
    ),
    (
        r"Failed to initialize NVML: Unknown Error",
        "this container has lost its GPUs, as after `systemctl daemon-reload` on its host",
        "start the container again",
        "",
    ),
    (
        r"GPU is lost|Unable to determine the device handle|fallen off the bus",
        "a GPU no longer answers",
        "reboot; if it comes back, its seat, power or the GPU itself is at fault",
        "sudo reboot",
    ),
    (r"No devices were found|Insufficient Permissions", "the driver gives this user no GPU",
     "ask for one: `srun --gres=gpu:1`, `docker run --gpus all`, or access to /dev/nvidia*", ""),
)  # fmt: skip


def pci_gpus(machine: Machine) -> list[str]:
    """Vendors of the display and compute devices on the PCI bus."""
    found = []
    for path in sorted(machine.root.glob("sys/bus/pci/devices/*/class")):
        kind = (machine.read(str(path.relative_to(machine.root))) or "").strip()
        vendor = (machine.read(str(path.with_name("vendor").relative_to(machine.root))) or "").strip()
        # 0x03 is a display controller, 0x12 a processing accelerator; a board's own VGA chip has other vendors.
        if kind[:4] in ("0x03", "0x12") and vendor in _PCI_VENDORS:
            found.append(_PCI_VENDORS[vendor])
    return found


def examine_gpus(machine: Machine, smi: Ended, *, capabilities: Sequence[str], told: Told) -> Section:
    """The probe.

    Args:
        machine: where to look for devices.
        smi: how `nvidia-smi -q -x` ended.
        capabilities: compute capabilities, in its order; may be empty.
        told: what torch told.
    """
    driver = parse_driver(smi.out) if smi.status == 0 else None
    on_bus = pci_gpus(machine)
    torch = told.section("torch")
    facts: dict[str, Any] = {
        "driver": driver.release if driver else None,
        "driver_cuda": driver.cuda if driver else None,
        "on_pci_bus": on_bus,
        "gpus": [
            {
                "name": gpu.name,
                "memory": gpu.memory,
                "used": gpu.used,
                "capability": capabilities[gpu.index] if gpu.index < len(capabilities) else None,
                "pcie_lanes": gpu.width,
                "mig_parts": list(gpu.mig_parts) if gpu.mig_parts is not None else None,
                "uncorrected_errors": gpu.uncorrected,
            }
            for gpu in (driver.gpus if driver else ())
        ],
        "torch_cuda": torch.get("cuda"),
        "torch_rocm": torch.get("hip"),
        "torch_devices": torch.get("devices", []),
        "torch_fp16_on_processor": torch.get("fp16"),
    }
    findings = [
        *judge_driver(driver, smi, on_bus),
        *judge_torch(driver, torch, machine),
        *judge_devices(torch),
    ]
    for gpu in driver.gpus if driver else ():
        findings += judge_gpu(gpu)
    return Section("gpus", facts, (*findings, *_judge_mixture(driver)))


def judge_driver(driver: Driver | None, smi: Ended, on_bus: Sequence[str]) -> Iterator[Finding]:
    """GPUs that the driver does not give."""
    if driver is not None and driver.gpus:
        return
    if smi.timed_out:
        yield Finding(
            "error",
            "driver-hangs",
            f"nvidia-smi had not answered after {smi.seconds:.0f} s",
            "whatever touches the GPUs hangs as well; mostly one of them has fallen off the bus",
            "look for Xid in the kernel's log; reboot",
            "sudo dmesg | grep -i xid",
        )
    elif smi.status is not None:
        said = " ".join(f"{smi.out} {smi.err}".split())
        known = next((one for one in _DRIVER_FAILURES if re.search(one[0], said)), None)
        meaning = f" ({known[1]})" if known else ""
        told = f"nvidia-smi failed: {said[:300] or f'exit code {smi.status}'}{meaning}"
        effect = "no GPU can be used"
        yield Finding("error", "driver-fails", told, effect, known[2] if known else "", known[3] if known else "")
    elif "NVIDIA" in on_bus:
        yield Finding(
            "error",
            "no-driver",
            f"{on_bus.count('NVIDIA')} NVIDIA GPUs are on the PCI bus, nvidia-smi is not installed here",
            "training would run on the processors",
            "install the driver; in a container: start it with `docker run --gpus all` (NVIDIA Container Toolkit)",
        )


def judge_torch(driver: Driver | None, torch: dict[str, Any], machine: Machine) -> Iterator[Finding]:
    """Whether torch was built for the GPUs, and sees them all."""
    gpus = driver.gpus if driver else ()
    if not torch or torch.get("error") or not gpus:
        return
    if torch.get("cuda") is None:
        what = "for AMD's ROCm" if torch.get("hip") else "without CUDA"
        yield Finding(
            "error",
            "torch-without-cuda",
            f"this machine has {len(gpus)} x {gpus[0].name}, torch was built {what}",
            "training would run on the processors",
            f"install a torch built for CUDA{f' {driver.cuda} or older' if driver and driver.cuda else ''}; "
            "pytorch.org has the command",
        )
        return
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1", "NoDevFiles")
    if torch.get("gpus_usable"):
        parts = sum(len(gpu.mig_parts) if gpu.mig_parts is not None else 1 for gpu in gpus)
        if visible is None and len(torch["devices"]) < parts and all(gpu.mig_parts is None for gpu in gpus):
            told = f"torch sees {len(torch['devices'])} GPUs, the driver {parts}"
            effect = "plans for all of them are refused at start"
            yield Finding("error", "gpus-missing", told, effect, "one of them has failed: look at `nvidia-smi`")
    elif not hidden:
        said = str(torch.get("gpu_warning") or "it gives no reason")
        known = explain(said)
        yield Finding(
            "error",
            "cuda-fails",
            f"torch {torch['cuda']} cannot use the {len(gpus)} GPUs: {said}" + (f" ({known.meaning})" if known else ""),
            "training would run on the processors",
            known.remedy if known else _driver_remedy(driver, torch["cuda"]),
            known.command if known else "",
        )


def _driver_remedy(driver: Driver | None, built_for: str) -> str:
    newest = driver.cuda if driver else None
    if newest and _numbers(built_for) > _numbers(newest):
        return f"the driver runs CUDA {newest} and older: update it, or install a torch for CUDA {newest}"
    return "look at LD_LIBRARY_PATH, and whether /dev/nvidia* are there"


def judge_devices(torch: dict[str, Any]) -> Iterator[Finding]:
    """Whether this torch holds code for the GPUs, and which types they compute in."""
    architectures = [str(one) for one in torch.get("architectures", [])]
    for device in {one["name"]: one for one in torch.get("devices", [])}.values():
        if torch.get("cuda") and architectures and not has_code_for(device["capability"], architectures):
            yield Finding(
                "error",
                "no-code-for-gpu",
                f"{device['name']} has compute capability {device['capability']}, this torch has code for "
                f"{', '.join(architectures)}",
                "the first kernel ends with `no kernel image is available`",
                "install a torch that has: a newer one for new GPUs, an older one for Pascal and before",
            )
        if torch.get("cuda") and _numbers(device["capability"]) < (8, 0):
            told = f"{device['name']} (compute capability {device['capability']}) has no bf16"
            effect = "libraries compute bf16 in fp32 there, slowly"
            yield Finding("note", "no-bf16", told, effect, "plan with --precision fp16")
    if torch.get("hip"):
        told = f"torch is built for ROCm {torch['hip']}: AMD GPUs"
        effect = "torch calls them cuda and training starts; nothing of this toolkit was tested or planned on them"
        yield Finding("note", "rocm", told, effect, "compare a short run with `toolkit launch` on processors first")
    if torch.get("mps"):
        told = "Apple's GPU is there"
        yield Finding("note", "mps", told, "this toolkit does not use it; ranks run on the processor", "nothing")


def has_code_for(capability: str, architectures: Sequence[str]) -> bool:
    """Whether kernels run on a GPU: binary code of its generation and not newer, or PTX that is not newer.

    Args:
        capability: as 8.6.
        architectures: as torch lists them: sm_80, sm_90a, compute_90.
    """
    own = _numbers(capability)
    for one in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", one)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        # sm_90a runs on 9.0 alone; sm_100 and sm_100f on the later GPUs of their generation too.
        if built == own or (match[4] != "a" and built < own and (match[1] == "compute" or built[0] == own[0])):
            return True
    return False


def _judge_mixture(driver: Driver | None) -> Iterator[Finding]:
    names = sorted({gpu.name for gpu in driver.gpus}) if driver else []
    if len(names) > 1:
        yield Finding(
            "warning",
            "mixed-gpus",
            f"GPUs of several kinds: {', '.join(names)}",
            "the slowest and the smallest decides for all; nvidia-smi and CUDA may number them differently",
            "choose equal ones with CUDA_VISIBLE_DEVICES",
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    sizes = {gpu.memory for gpu in driver.gpus if gpu.memory} if driver else set()
    if len(names) == 1 and len(sizes) > 1:
        told = f"{names[0]} with {' and '.join(human_bytes(size) for size in sorted(sizes))}"
        yield Finding("warning", "mixed-gpus", told, "the smallest decides", "choose equal ones: CUDA_VISIBLE_DEVICES")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
