"""What this rank's process and device hold."""

import contextlib
import resource
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): resets the peak resident size to the present one


def begin_memory_watch() -> int:
    """Resident bytes now; where the kernel lets it, `peak_resident_bytes` looks for the peak from here on."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK)
    return _status_bytes("VmRSS") or peak_resident_bytes()


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


def memory_of_rank(rank: int, device: torch.device, *, rss_at_start: int) -> dict[str, int]:
    """One entry of summary.json's `memory_by_rank`."""
    found = {"rank": rank, "rss_at_start_bytes": rss_at_start, "peak_rss_bytes": peak_resident_bytes()}
    return {**found, **peak_memory(device)}


def _status_bytes(name: str) -> int:
    """A size from /proc/self/status; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
