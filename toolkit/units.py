"""Bytes, seconds and counts as people write them; the only place where a unit is converted."""

import re
from decimal import Decimal

KiB = 1024
MiB = 1024**2
GiB = 1024**3
TiB = 1024**4

# "GB" is what vendors print on a GPU and means GiB there: an "80GB" A100 has 80 GiB of HBM.
_UNITS = {"": 1, "B": 1, "KIB": KiB, "KB": KiB, "MIB": MiB, "MB": MiB, "GIB": GiB, "GB": GiB, "TIB": TiB, "TB": TiB}


def parse_bytes(text: str) -> int:
    """Turn "80 GiB", "512MB" or "1024" into a number of bytes (GB is read as GiB).

    Raises:
        ValueError: the text is not a number followed by a known unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write a number and B, KiB, MiB, GiB or TiB, as in '80 GiB'")
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])


def human_bytes(num_bytes: float) -> str:
    """Bytes for people: 85899345920 -> '80.0 GiB'."""
    for unit, size in (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if abs(num_bytes) >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def human_count(count: float) -> str:
    """A count for people: 8030261248 -> '8.03B'."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:.0f}"


def human_seconds(seconds: float) -> str:
    """Seconds for people: 3725 -> '1 h 02 min', 75 -> '1 min 15 s', 0.25 -> '250 ms'."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
