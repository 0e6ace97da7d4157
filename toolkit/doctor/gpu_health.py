"""What is wrong with one GPU, and what the kernel has said of it."""

import re
from collections.abc import Iterator

from toolkit.doctor.finding import Finding
from toolkit.doctor.nvidia_smi import Gpu
from toolkit.units import GiB, human_bytes

KERNEL_LOG = ("dmesg",)

_BUSY_BYTES = GiB
"""A display, or a context that nobody uses, has less."""
# https://docs.nvidia.com/deploy/xid-errors/ ; those of programs (13, 31, 43, 45, ...) say nothing of the hardware.
_XIDS = {
    48: ("a memory error that ECC could not correct", "reset it"),
    61: ("a fault in its firmware", "reset it"),
    62: ("a fault in its firmware", "reset it"),
    63: ("a row of its memory was set aside", "reset it when no run is on it"),
    64: ("a row of its memory could not be set aside", "have it replaced if this comes back"),
    74: ("an error on NVLink", "reset it; look at `nvidia-smi nvlink --errorcounters`"),
    79: ("it has fallen off the PCIe bus", "reboot; look at power, heat and its seat"),
    92: ("many memory errors that ECC corrected", "watch it"),
    94: ("a memory error that ended one program only", "start that program again, reset the GPU soon"),
    95: ("a memory error that ended all programs on it", "reset it"),
    119: ("its firmware no longer answers", "reset it, update the driver"),
    120: ("an error in its firmware", "reset it, update the driver"),
    140: ("a memory error that ECC could not correct", "reset it"),
}


def judge_gpu(gpu: Gpu) -> Iterator[Finding]:
    """The findings on a GPU as its driver sees it."""
    what = f"GPU {gpu.index} ({gpu.name})"
    yield from _judge_memory(gpu, what)
    if gpu.compute_mode == "Prohibited":
        told, effect = f"{what}: compute mode is Prohibited", "no program can use it"
        yield Finding("error", "compute-mode", told, effect, command=f"sudo nvidia-smi -i {gpu.index} -c 0")
    elif gpu.compute_mode == "Exclusive_Process":
        told, effect = f"{what}: compute mode is Exclusive_Process", "a second program on it ends with `busy`"
        yield Finding("note", "compute-mode", told, effect, command=f"sudo nvidia-smi -i {gpu.index} -c 0")
    if gpu.mig_parts is not None:
        sizes = ", ".join("?" if size is None else human_bytes(size) for size in gpu.mig_parts)
        yield Finding(
            "warning",
            "mig",
            f"{what} is divided into {len(gpu.mig_parts)} parts by MIG: {sizes or 'none are made'}",
            "a process sees one part, and NCCL does not join parts: one rank only; the catalog has no parts",
            "plan for one rank with a cluster file of the part's numbers; to use all of it:",
            f"sudo nvidia-smi -i {gpu.index} -mig 0",
        )
    if gpu.width is not None and gpu.most_width is not None and gpu.width < gpu.most_width:
        yield Finding(
            "warning",
            "pcie-lanes",
            f"{what} runs on {gpu.width} of {gpu.most_width} PCIe lanes",
            "offload, loading and collectives over PCIe are as much slower",
            "another slot, or another seat; some boards halve the lanes when two slots are used",
        )
    if gpu.slowed_by:
        told = f"{what} is slowed down by {' and '.join(gpu.slowed_by)}"
        effect = "every rank waits for it at each step"
        yield Finding(
            "warning", "gpu-slowed", told, effect, "look at cooling and power", "nvidia-smi -q -d PERFORMANCE"
        )
    if gpu.fabric in ("In Progress", "Not Started"):
        told = f"{what}: registration with the fabric manager is {gpu.fabric.lower()}"
        command = "sudo systemctl enable --now nvidia-fabricmanager"
        yield Finding("error", "fabric-manager", told, "CUDA does not start (error 802)", "start the service", command)


def _judge_memory(gpu: Gpu, what: str) -> Iterator[Finding]:
    if gpu.used is not None and gpu.used > _BUSY_BYTES and gpu.mig_parts is None:
        of = f" of {human_bytes(gpu.memory)}" if gpu.memory else ""
        by = f" by {gpu.num_processes} processes" if gpu.num_processes else ""
        yield Finding(
            "warning",
            "gpu-in-use",
            f"{what}: {human_bytes(gpu.used)}{of} are in use{by}",
            "plans count on nearly all of it; runs end with `CUDA out of memory`",
            "end what holds it, or choose other GPUs with CUDA_VISIBLE_DEVICES",
            "nvidia-smi",
        )
    reset = f"sudo nvidia-smi -i {gpu.index} --gpu-reset"
    if gpu.failing:
        told = f"{what}: rows of its memory are damaged and there are none left to replace them"
        yield Finding("error", "gpu-damaged", told, "runs end with ECC errors, again and again", "have it replaced")
    elif gpu.uncorrected:
        told = f"{what}: {gpu.uncorrected} memory errors since the driver was loaded that ECC could not correct"
        yield Finding("warning", "gpu-memory-errors", told, "the run on it then has ended", "reset it", reset)
    elif gpu.wants_reset:
        told = f"{what} waits for a reset, to replace damaged rows of its memory"
        yield Finding("warning", "gpu-wants-reset", told, "the rows are used until then", "with no run on it:", reset)


def parse_xids(log: str) -> dict[int, int]:
    """Xid -> how often the kernel's log has it."""
    found: dict[int, int] = {}
    for number in re.findall(r"NVRM: Xid \([^)]*\): (\d+)", log):
        found[int(number)] = found.get(int(number), 0) + 1
    return found


def judge_xids(xids: dict[int, int]) -> Iterator[Finding]:
    """Those that speak of the hardware."""
    for number, times in sorted(xids.items()):
        if number in _XIDS:
            meaning, remedy = _XIDS[number]
            often = f", {times} times" if times > 1 else ""
            told = f"the kernel's log has Xid {number} of a GPU{often}: {meaning}"
            effect = "runs on it end with CUDA errors or hang"
            yield Finding("warning", "xid", told, effect, remedy, "sudo dmesg | grep -i xid")
