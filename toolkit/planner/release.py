"""What this release runs of what is planned."""

from toolkit.planner.multiples import choice
from toolkit.planner.rules import ENGINES
from toolkit.planner.strategy import EngineName, Strategy

RELEASED: tuple[EngineName, ...] = ("zero", "pipeline")
"""The engines of this release, with all that the table says of them."""


def runs_today(strategy: Strategy) -> str | None:
    """Why this release cannot run a strategy, with what it can; None where it can."""
    if strategy.engine not in RELEASED:
        return f"engine={strategy.engine}: this release runs engine={choice(RELEASED)} only"
    return None


def degrees_beyond(strategy: Strategy) -> list[str]:
    """What no engine of this release divides, as cp=2."""
    known = {name for engine in RELEASED for name in ENGINES[engine].degrees}
    return [f"{name}={size}" for name, size in strategy.degrees.items() if size > 1 and name not in known]
