"""What this release runs of what is planned."""

from toolkit.planner.multiples import choice
from toolkit.planner.rules import ENGINES
from toolkit.planner.setup import Method
from toolkit.planner.strategy import EngineName, Strategy

RELEASED: tuple[EngineName, ...] = ("zero", "pipeline")
"""The engines of this release, with all that the table says of them."""


def runs_today(strategy: Strategy, method: Method = "full") -> str | None:
    """Why this release cannot run a strategy, with what it can; None where it can."""
    return not_released(strategy.engine, method)


def not_released(engine: EngineName, method: str) -> str | None:
    """`runs_today` from single values."""
    if engine not in RELEASED:
        return f"engine={engine}: this release runs engine={choice(RELEASED)} only"
    if method == "qlora":
        return "method=qlora: this release trains adapters on 16-bit weights only; use method=lora"
    return None


def degrees_beyond(strategy: Strategy) -> list[str]:
    """What no engine of this release divides, as cp=2."""
    known = {name for engine in RELEASED for name in ENGINES[engine].degrees}
    return [f"{name}={size}" for name, size in strategy.degrees.items() if size > 1 and name not in known]
