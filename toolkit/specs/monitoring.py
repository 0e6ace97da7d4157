"""What ranks tell each other of their time, and when one of them is called slow, as the recipe has it."""

from pydantic import Field, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec


class MonitoringConfig(Spec):
    """Every rank's own time in ranks.jsonl, and a warning that names a rank the others wait for."""

    enabled: bool = True
    """Write ranks.jsonl and look for slow ranks."""
    every_steps: int = Field(default=5, gt=0)
    """Optimizer steps between two tellings; a slow rank is named after seven of them at the latest."""
    slow_share: float = Field(default=0.1, gt=0, lt=1)
    """A rank is slow where each step takes this part of its time longer because of it."""
    balance: bool = False
    """Give each replica micro-batches in proportion to its measured speed; with ZeRO-0 and 1 alone.
    The rows of a global batch stay the same, and so do loss and gradients, but for the order of sums."""

    @model_validator(mode="after")
    def _speeds_to_balance_by(self) -> Self:
        if self.balance and not self.enabled:
            raise ValueError("balance goes by the times that ranks tell each other; set enabled to true")
        return self
