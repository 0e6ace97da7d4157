"""`data_efficiency`: what its parts need once they are enabled.

Source: deepspeed 0.19.8 runtime/data_pipeline/config.py.
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding

_NEEDS = {"curriculum_learning": "curriculum_metrics", "dynamic_batching": "max_tokens"}


def data_efficiency(values: Values, context: Context) -> Iterator[Finding]:
    """Curricula without a metric, batches by tokens without a number of them."""
    for part, needed in _NEEDS.items():
        at = ("data_efficiency", "data_sampling", part)
        if values.on(*at, "enabled") and not values.has(*at, needed):
            told, effect = f"is enabled and `{needed}` is missing", "an AssertionError at start"
            yield Finding("error", "data-efficiency", at, told, effect, f"add `{needed}`, or disable it")
