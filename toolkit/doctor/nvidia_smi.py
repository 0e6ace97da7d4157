"""What `nvidia-smi -q -x` prints, understood: the same keys over many drivers, and some that moved."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from toolkit.units import MiB

QUERY = ("nvidia-smi", "-q", "-x")
CAPABILITIES = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
"""The XML does not have them; drivers before 510 do not know the question."""

_SLOWED = {
    "hw_slowdown": "the hardware",
    "hw_thermal_slowdown": "heat",
    "hw_power_brake_slowdown": "the power supply",
    "sw_thermal_slowdown": "heat",
}
"""Reasons for low clocks that are nobody's wish; the power limit is."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver sees it."""

    index: int
    name: str
    memory: int | None
    """Bytes; None where it is the host's, as on GB10."""
    used: int | None
    """Bytes that any process has."""
    num_processes: int
    """That compute there, as far as a container sees them."""
    mig_parts: tuple[int | None, ...] | None
    """Bytes of each part; None where the GPU is not divided."""
    width: int | None
    """PCIe lanes in use."""
    most_width: int | None
    compute_mode: str
    uncorrected: int | None
    """Memory errors since the driver was loaded that ECC could not correct; None without ECC."""
    failing: bool
    """Rows of its memory could not be replaced."""
    wants_reset: bool
    """A repair, or the driver, waits for one."""
    slowed_by: tuple[str, ...]
    fabric: str | None
    """State of its registration with the fabric manager, where NVSwitch joins the GPUs."""


@dataclass(frozen=True)
class Driver:
    """All of them."""

    release: str
    cuda: str | None
    """The newest CUDA that it runs."""
    gpus: tuple[Gpu, ...]


def parse_driver(text: str) -> Driver | None:
    """From the XML; None where it is none."""
    start = text.find("<?xml")
    try:
        log = ElementTree.fromstring(text[max(start, 0) :])
    except ElementTree.ParseError:
        return None
    gpus = tuple(_gpu(number, element) for number, element in enumerate(log.findall("gpu")))
    return Driver(_text(log, "driver_version") or "unknown", _text(log, "cuda_version"), gpus)


def parse_capabilities(text: str) -> list[str]:
    """One per GPU, as 9.0; empty where the driver does not know the question."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if all(re.fullmatch(r"\d+\.\d+", line) for line in lines) else []


def _gpu(number: int, gpu: ElementTree.Element) -> Gpu:
    errors = gpu.find("ecc_errors/volatile")
    counted = [int(one.text) for one in _uncorrectable(errors) if one.text and one.text.strip().isdecimal()]
    parts = [_bytes(part, "fb_memory_usage/total") for part in gpu.findall("mig_devices/mig_device")]
    divided = _text(gpu, "mig_mode/current_mig") == "Enabled"
    pending = (
        "retired_pages/pending_retirement",
        "remapped_rows/remapped_row_pending",
        "gpu_reset_status/reset_required",
        "ecc_errors/channel_repair_pending",
        "ecc_errors/tpc_repair_pending",
    )
    action = _text(gpu, "gpu_recovery_action")
    kinds = [_text(one, "type") or "C" for one in gpu.findall("processes/process_info")]
    return Gpu(
        index=number,
        name=_text(gpu, "product_name") or "unknown",
        memory=_bytes(gpu, "fb_memory_usage/total"),
        used=_bytes(gpu, "fb_memory_usage/used"),
        num_processes=sum("C" in kind for kind in kinds),
        mig_parts=tuple(parts) if divided else None,
        width=_lanes(gpu, "current_link_width"),
        most_width=_lanes(gpu, "max_link_width"),
        compute_mode=_text(gpu, "compute_mode") or "Default",
        uncorrected=sum(counted) if counted else None,
        failing=_text(gpu, "remapped_rows/remapped_row_failure") == "Yes",
        wants_reset=any(_text(gpu, path) == "Yes" for path in pending) or bool(action and action != "None"),
        slowed_by=tuple(dict.fromkeys(_slowed(gpu))),
        fabric=_text(gpu, "fabric/state"),
    )


def _uncorrectable(errors: ElementTree.Element | None) -> Iterator[ElementTree.Element]:
    """Counters of what ECC could not correct: sram and dram of newer drivers, double_bit of older ones."""
    if errors is not None:
        yield from (one for one in errors.iter() if "uncorrectable" in one.tag)
        yield from errors.findall("double_bit/total")


def _slowed(gpu: ElementTree.Element) -> Iterator[str]:
    for old in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for one in gpu.findall(f"{old}/*"):
            reason = re.sub(r"^clocks_(?:event|throttle)_reason_", "", one.tag)
            if reason in _SLOWED and (one.text or "").strip() == "Active":
                yield _SLOWED[reason]


def _text(element: ElementTree.Element, path: str) -> str | None:
    """Text below an element; None where the driver has nothing to say."""
    found = (element.findtext(path) or "").strip()
    return None if found in ("", "N/A", "[N/A]", "Unknown") or found.startswith("Requested func") else found


def _bytes(element: ElementTree.Element, path: str) -> int | None:
    match = re.fullmatch(r"(\d+) MiB", _text(element, path) or "")
    return int(match[1]) * MiB if match else None


def _lanes(gpu: ElementTree.Element, name: str) -> int | None:
    match = re.fullmatch(r"(\d+)x", _text(gpu, f"pci/pci_gpu_link_info/link_widths/{name}") or "")
    return int(match[1]) if match else None
