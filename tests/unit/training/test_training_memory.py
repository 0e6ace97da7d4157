"""What a rank says of its own memory."""

from pathlib import Path

import pytest
import torch

from toolkit.training import memory
from toolkit.training.memory import begin_memory_watch, memory_of_rank, peak_resident_bytes

SIZE = 96 * 2**20


def test_the_peak_stays_after_the_memory_is_gone() -> None:
    before = begin_memory_watch()
    held = torch.ones(SIZE, dtype=torch.uint8)
    del held
    told = memory_of_rank(3, torch.device("cpu"), rss_at_start=before, traffic_at_start=(0, 0))
    disk = {"disk_read_bytes", "disk_written_bytes"}
    assert told.keys() == {"rank", "rss_at_start_bytes", "peak_rss_bytes"} | disk
    assert told["rank"] == 3
    assert told["rss_at_start_bytes"] == before
    grown = told["peak_rss_bytes"] - before
    assert 0.9 * SIZE < grown < 1.5 * SIZE


def test_a_watch_begins_anew() -> None:
    if not memory._CLEAR.exists():
        pytest.skip("no /proc/self/clear_refs: the peak is that of the whole process")
    begin_memory_watch()
    held = torch.ones(SIZE, dtype=torch.uint8)
    del held
    high = peak_resident_bytes()
    now = begin_memory_watch()
    assert peak_resident_bytes() < high - SIZE // 2
    assert now <= peak_resident_bytes() + SIZE // 10


def test_without_proc_the_kernels_own_count_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    assert begin_memory_watch() == peak_resident_bytes() > 10 * 2**20
