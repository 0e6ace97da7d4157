"""Times that their own table contradicts: a stalled network or a noisy neighbour, not the layout.

Of the ultra-scale playbook's 843 runs 35 (4 %) take 3 to 50 times as long as the same layout at the other ZeRO stage,
which moves as many bytes to within a factor of two. No model of the layout can be right about both; the report states
the error with and without them.
"""

from collections.abc import Iterable

from toolkit.errors import SpecError
from toolkit.planner.validation.runs import MeasuredRun

SLOWER = 3.0
"""Times as slow as its twin before a row counts as contradicted; ZeRO stages 0 and 1 differ by two at most."""

SAME = (
    *("source", "model", "gpu", "n_gpus", "framework", "precision", "method", "seq_len", "global_batch"),
    *("tp", "pp", "vpp", "cp", "ulysses_sp", "micro_batch", "act_ckpt", "offload"),
)
"""Columns that twins have in common: all that decides the time, but for ZeRO's stage."""


CONTRADICTED = f"its own table has the same layout more than {SLOWER:.0f} times as fast"
"""Why such a row is not scored by default."""


class Twins:
    """The fastest of every layout, ZeRO's stage aside."""

    def __init__(self, runs: Iterable[MeasuredRun]) -> None:
        """Index the runs; those that are not curated count as well."""
        self._best: dict[tuple[str, ...], float] = {}
        for run in runs:
            rate, layout = _rate(run), _layout(run)
            self._best[layout] = max(rate, self._best.get(layout, 0.0))

    def contradict(self, run: MeasuredRun) -> bool:
        """True for a row whose twin is `SLOWER` times as fast."""
        rate = _rate(run)
        return rate > 0 and self._best.get(_layout(run), 0.0) > SLOWER * rate


def _rate(run: MeasuredRun) -> float:
    try:
        return run.number("tokens_per_s_per_gpu") or 0.0
    except SpecError:
        return 0.0


def _layout(run: MeasuredRun) -> tuple[str, ...]:
    return tuple(run.text(column) for column in SAME)
