"""What this rank's process and device hold, and what the process has moved to and from disks."""

import contextlib
import resource
from pathlib import Path

import torch

_STATUS, _CLEAR, _IO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/self/io")
_FORGET_PEAK = "5"  # proc(5): resets the peak resident size to the present one


def begin_memory_watch() -> int:
    """Resident bytes now; where the kernel lets it, `peak_resident_bytes` looks for the peak from here on."""
    forget_peak()
    return _status_bytes("VmRSS") or peak_resident_bytes()


def forget_peak() -> None:
    """Let the peak begin anew, where the kernel lets it: what was only looked at is no part of the run's memory."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK)


def peak_resident_bytes() -> int:
    """Largest resident size of this process."""
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak bytes: of the allocator on a GPU, of the process (RSS) on the CPU."""
    if device.type == "cuda":
        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"peak_rss_bytes": peak_resident_bytes()}


def memory_of_rank(
    rank: int, device: torch.device, *, rss_at_start: int, traffic_at_start: tuple[int, int]
) -> dict[str, int]:
    """One entry of summary.json's `memory_by_rank`.

    Args:
        rank: this one.
        device: what it trains on.
        rss_at_start: as `begin_memory_watch` gave it before the model was read.
        traffic_at_start: as `disk_traffic` gave it before the first step.
    """
    read, written = (now - before for now, before in zip(disk_traffic(), traffic_at_start, strict=True))
    found = {"rank": rank, "rss_at_start_bytes": rss_at_start, "peak_rss_bytes": peak_resident_bytes()}
    found |= {"disk_read_bytes": read, "disk_written_bytes": written}
    return {**found, **peak_memory(device)}


def disk_traffic() -> tuple[int, int]:
    """Bytes that this process has read from disks and written to them so far; zeros where the kernel does not say.

    What the page cache serves is no traffic; swapping to a disk goes past it (O_DIRECT).
    """
    counted = {"read_bytes": 0, "write_bytes": 0}
    with contextlib.suppress(OSError, ValueError):
        for line in _IO.read_text().splitlines():
            name, _, value = line.partition(": ")
            if name in counted:
                counted[name] = int(value)
    return counted["read_bytes"], counted["write_bytes"]


def _status_bytes(name: str) -> int:
    """A size from /proc/self/status; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
