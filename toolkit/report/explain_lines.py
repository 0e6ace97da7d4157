"""The shape of an explanation: lines of arithmetic with their results and sources, in sections."""

from typing import Literal, NamedTuple

from toolkit.units import human_bytes, human_count, human_seconds

Unit = Literal["bytes", "seconds", "count", "FLOP/s", "B/s", "tokens/s"]


class Line(NamedTuple):
    """One step of the arithmetic."""

    what: str
    """What is computed."""
    value: float
    """The result."""
    unit: Unit
    """What it is counted in."""
    how: str
    """The arithmetic with its numbers, as in '2 B x 8.03B / 8'."""
    source: str = ""
    """Where the formula or constant is published, or what it was counted in."""
    is_sum: bool = False
    """It adds up the lines above it."""

    @property
    def result(self) -> str:
        """The value for people."""
        match self.unit:
            case "bytes":
                return human_bytes(self.value)
            case "seconds":
                return short_seconds(self.value)
            case "FLOP/s" | "B/s":
                return (
                    f"{self.value / 1e12:,.1f} T{self.unit}"
                    if self.value >= 1e12
                    else f"{self.value / 1e9:,.1f} G{self.unit}"
                )
            case _:
                return f"{self.value:,.0f}" if self.value < 1e6 else human_count(self.value)


class Section(NamedTuple):
    """Lines that belong together."""

    title: str
    lines: tuple[Line, ...]

    def value(self, what: str) -> float:
        """The result of one line."""
        return next(line.value for line in self.lines if line.what == what)


def short_seconds(seconds: float) -> str:
    """As human_seconds, with more figures below 0.1 s: 0.01234 -> '12.34 ms'."""
    if 0 < seconds < 1e-4:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if 0 < seconds < 0.1 else human_seconds(seconds)


def over(size: int | float, what: str) -> str:
    """' / tp 8', or nothing where the divisor is 1."""
    return f" / {what} {size:,g}" if size != 1 else ""
