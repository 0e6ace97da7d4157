"""What a comparison reads of a run, checked: a record without its numbers is one error that names file and key."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from toolkit.errors import ConfigError
from toolkit.report.runs import Run, Step

STEP_NUMBERS = ("step_seconds", "tokens_per_second", "tokens")
"""What every step has in telemetry.jsonl."""


def memory_by_rank(run: Run, steps: Sequence[Step]) -> list[dict[str, int]]:
    """What summary.json says of every rank; else of rank 0, from its last step.

    Raises:
        ConfigError: summary.json is damaged, or a rank lacks a peak that the first one has.
    """
    recorded = run.summary.get("memory_by_rank", []) if run.folder.summary.is_file() else []
    if not recorded:
        return [{"rank": 0, **_peaks(steps[-1], f"{run.folder.telemetry}: step {len(steps)}")}]
    if not isinstance(recorded, list) or not all(isinstance(rank, dict) for rank in recorded):
        raise ConfigError(f"{run.folder.summary}: memory_by_rank needs one object per rank; the file was changed")
    needed = _peaks(recorded[0], f"{run.folder.summary}: memory_by_rank[0]")
    for place, rank in enumerate(recorded):
        where = f"{run.folder.summary}: memory_by_rank[{place}]"
        need_above_0(rank, needed, where)
        if not isinstance(rank.get("rank"), int):
            raise ConfigError(f"{where} has no rank; the file was changed")
    return recorded


def need_above_0(record: Mapping[str, Any], keys: Collection[str], where: str) -> None:
    """Refuse a record without these numbers.

    Raises:
        ConfigError: one is missing, no number, or not above 0.
    """
    for key in keys:
        value = record.get(key)
        if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            said = f"{key} is {value!r}" if key in record else f"has no {key}"
            raise ConfigError(f"{where} {said}, needs a number above 0; the file was changed or is another release's")


def _peaks(record: Mapping[str, Any], where: str) -> dict[str, int]:
    found = {key: value for key, value in record.items() if key.startswith(("peak_", "rss_"))}
    if "peak_allocated_bytes" in found:
        need_above_0(found, ("peak_allocated_bytes", "peak_reserved_bytes"), where)
    need_above_0(found, found, where)
    return found
