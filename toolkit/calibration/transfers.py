"""Bytes per second between host and device, and to and from the disk."""

import os
import time
from pathlib import Path

import torch

from toolkit.calibration.ranks import Ranks

_PINNED_BYTES = 256 * 2**20
_DISK_BYTES = 256 * 2**20
_CHUNK_BYTES = 4 * 2**20


def host_transfers(ranks: Ranks, *, seconds: float) -> tuple[float, float]:
    """(host to device, device to host) of one rank with pinned memory, all ranks at once."""
    host = torch.empty(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(_PINNED_BYTES, dtype=torch.uint8, device=ranks.device)
    up = ranks.seconds_of(lambda: device.copy_(host, non_blocking=True), allowed=seconds / 2)
    down = ranks.seconds_of(lambda: host.copy_(device, non_blocking=True), allowed=seconds / 2)
    return _PINNED_BYTES / up, _PINNED_BYTES / down


def disk_rates(ranks: Ranks, folder: Path) -> tuple[float | None, float]:
    """(read, write) over all ranks, 256 MiB in all; read is None where the page cache cannot be dropped.

    Written means flushed to the disk (fsync). Read again after the file has left the page cache: from memory it would
    be ten times as fast.
    """
    path, num_chunks = folder / f"disk{ranks.rank}", max(1, _DISK_BYTES // _CHUNK_BYTES // ranks.world_size)
    num_bytes = num_chunks * _CHUNK_BYTES * ranks.world_size
    try:
        ranks.slowest(0.0)  # start together
        began = time.perf_counter()
        _write(path, num_chunks)
        written = ranks.slowest(time.perf_counter() - began)
        if not hasattr(os, "posix_fadvise"):
            return None, num_bytes / written
        began = time.perf_counter()
        _read_from_disk(path)
        read = ranks.slowest(time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)
    return num_bytes / read, num_bytes / written


def _write(path: Path, num_chunks: int) -> None:
    # Random bytes: some disks and file systems compress.
    chunk = os.urandom(_CHUNK_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(num_chunks):
            file.write(chunk)
        os.fsync(file.fileno())


def _read_from_disk(path: Path) -> None:
    buffer = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.readinto(buffer):
            pass
