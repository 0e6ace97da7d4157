"""Thresholds of the gradient norm that follow a run: plain arithmetic on norms, the same on every rank."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from toolkit.specs.clipping import ClippingConfig

_NORM = "norm."
"""How the counters of `Percentile` begin, oldest norm first."""


class Threshold(Protocol):
    """Says by what the gradients of a step are multiplied."""

    def factor(self, norm: float) -> float:
        """Of this step, which is counted."""

    def counters(self) -> dict[str, float]:
        """What it has learned."""

    def set_counters(self, counters: Mapping[str, float]) -> None:
        """Continue with it; begin anew where a threshold of another kind has learned it."""


def threshold_of(config: ClippingConfig) -> Threshold | None:
    """The one that the recipe asks for; None for kinds without."""
    if config.kind == "zclip":
        return ZClip(config.zscore, decay=config.decay, warmup_steps=config.warmup_steps)
    return Percentile(config.percentile, config.window) if config.kind == "percentile" else None


class ZClip:
    """A norm z > `zscore` deviations above the mean comes down to zscore^2 / z of them (Kumar et al. 2025, 2504.02507).

    Mean and variance are exponential averages; a clipped norm enters them as it was clipped.
    """

    def __init__(self, zscore: float, *, decay: float, warmup_steps: int) -> None:
        self._zscore, self._decay, self._warmup_steps = zscore, decay, warmup_steps
        self._steps, self._sum, self._sum_of_squares = 0.0, 0.0, 0.0
        self._mean, self._variance = 0.0, 0.0

    def factor(self, norm: float) -> float:
        """As `Threshold`."""
        if self._steps < self._warmup_steps:
            self._steps += 1
            self._sum, self._sum_of_squares = self._sum + norm, self._sum_of_squares + norm * norm
            self._mean = self._sum / self._steps
            self._variance = max(self._sum_of_squares / self._steps - self._mean**2, 0.0)
            return 1.0
        deviation = math.sqrt(self._variance)
        clipped = norm
        if norm - self._mean > self._zscore * deviation > 0:
            clipped = self._mean + self._zscore**2 * deviation**2 / (norm - self._mean)
        self._variance = self._decay * self._variance + (1 - self._decay) * (clipped - self._mean) ** 2
        self._mean = self._decay * self._mean + (1 - self._decay) * clipped
        return clipped / norm if clipped < norm else 1.0

    def counters(self) -> dict[str, float]:
        """As `Threshold`."""
        return {
            "steps": self._steps,
            "sum": self._sum,
            "sum_of_squares": self._sum_of_squares,
            "mean": self._mean,
            "variance": self._variance,
        }

    def set_counters(self, counters: Mapping[str, float]) -> None:
        """As `Threshold`."""
        for name in self.counters():
            setattr(self, f"_{name}", counters.get(name, 0.0))


class Percentile:
    """Norms above a percentile of the recent ones, this one's among them, come down to it (AutoClip, 2007.14469)."""

    def __init__(self, percentile: float, window: int) -> None:
        self._percentile = percentile
        self._norms: deque[float] = deque(maxlen=window)

    def factor(self, norm: float) -> float:
        """As `Threshold`."""
        self._norms.append(norm)
        ordered = sorted(self._norms)
        place = self._percentile / 100 * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        threshold = low + (high - low) * (place - math.floor(place))
        return threshold / norm if threshold < norm else 1.0

    def counters(self) -> dict[str, float]:
        """As `Threshold`."""
        return {f"{_NORM}{number}": norm for number, norm in enumerate(self._norms)}

    def set_counters(self, counters: Mapping[str, float]) -> None:
        """As `Threshold`."""
        own = [name for name in counters if name.startswith(_NORM)]
        self._norms.clear()
        self._norms.extend(counters[name] for name in sorted(own, key=lambda name: int(name.removeprefix(_NORM))))
