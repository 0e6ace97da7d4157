"""Sizes, counts and seconds, there and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.units import GiB, KiB, MiB, TiB, human_bytes, human_count, human_seconds, parse_bytes

sizes = st.integers(0, 2**60)
SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}


@given(sizes)
def test_plain_numbers_are_bytes(size: int) -> None:
    assert parse_bytes(str(size)) == parse_bytes(f" {size} B ") == size


@given(st.integers(0, 10**6), st.sampled_from([("KiB", KiB), ("mb", MiB), ("GB", GiB), ("GiB", GiB), ("tib", TiB)]))
def test_units_are_powers_of_1024(number: int, unit: tuple[str, int]) -> None:
    assert parse_bytes(f"{number} {unit[0]}") == parse_bytes(f"{number}{unit[0]}") == number * unit[1]


@given(sizes)
def test_a_printed_size_reads_back_rounded(size: int) -> None:
    text = human_bytes(size)
    step = max(1, parse_bytes(f"1 {text.split()[1]}") * 0.05)
    assert abs(parse_bytes(text) - size) <= step + 1


@given(sizes, sizes)
def test_larger_sizes_print_as_larger(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert parse_bytes(human_bytes(low)) <= parse_bytes(human_bytes(high))


@pytest.mark.parametrize(
    "text", ["", "GiB", "80 Gib it", "-1 GiB", "1e3", "80 PB", "1.2.3 GiB", "0x10", "٣ GiB", "1,5 GiB"]
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="as in '80 GiB'"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (80 * GiB, "80.0 GiB"),
        (1.5 * TiB, "1.5 TiB"),
        (-2 * MiB, "-2.0 MiB"),
    ],
)
def test_bytes_for_people(size: float, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00K"), (8_030_261_248, "8.03B"), (260_032, "260.03K"), (15e12, "15.00T")],
)
def test_counts_for_people(count: float, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250 ms"),
        (1, "1.0 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@given(st.floats(0, 1e7))
def test_printed_seconds_are_near(seconds: float) -> None:
    numbers = re.findall(r"([\d.]+) (ms|s|min|h)", human_seconds(seconds))
    printed = sum(float(number) * SECONDS[unit] for number, unit in numbers)
    assert abs(printed - seconds) <= SECONDS[numbers[-1][1]] * (0.05 if numbers == [(numbers[0][0], "s")] else 1) + 1e-9
