"""What is measured on held-out samples, as the recipe has it."""

from pydantic import Field

from toolkit.specs.base import Spec


class EvaluationConfig(Spec):
    """What is measured on the held-out samples before and after training."""

    exact_match_samples: int = Field(default=0, ge=0)
    """Held-out samples to answer greedily; 0 measures no exact match."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest generated answer in tokens."""
    loss_samples: int = Field(default=256, ge=0)
    """Held-out samples whose loss is measured; 0 measures none."""
