"""The two schedules that watch the run: what a held-out loss, or the size of an update, makes of the rate's factor."""

import math

import torch

from toolkit.checkpoints.manifest import Progress, RateRecord
from toolkit.engines.base import Engine
from toolkit.specs.schedule import ScheduleConfig, num_warmup_steps


def after_loss(schedule: ScheduleConfig, record: RateRecord, loss: float) -> RateRecord:
    """`plateau`: the rate is multiplied by `factor` after more than `patience` losses that are not better.

    As torch's ReduceLROnPlateau has it, with a relative threshold.
    """
    better = loss < (math.inf if record.level is None else record.level * (1 - schedule.threshold))
    waited = 0 if better or record.cooldown else record.waited + 1
    lowered = waited > schedule.patience
    changes = {
        "level": loss if better else record.level,
        "waited": 0 if lowered else waited,
        "cooldown": schedule.cooldown if lowered else max(record.cooldown - 1, 0),
        "factor": max(record.factor * schedule.factor, schedule.min_ratio) if lowered else record.factor,
    }
    return record.model_copy(update=changes)


def after_change(schedule: ScheduleConfig, record: RateRecord, change: float) -> RateRecord:
    """`relative_change`: the rate is led to where an update is `target` of the weights.

    An update is proportional to the rate, all else equal, so `target / change` is the factor that is missing; it is
    held between 1 / `max_adjustment` and `max_adjustment`, and the whole between `min_ratio` and 1. What is no number
    leaves the rate alone.
    """
    if not math.isfinite(change):
        return record
    missing = schedule.target / change if change > 0 else math.inf
    step = min(max(missing, 1 / schedule.max_adjustment), schedule.max_adjustment)
    factor = min(max(record.factor * step, schedule.min_ratio), 1.0)
    return record.model_copy(update={"factor": factor, "relative_change": change})


def measures_change(schedule: ScheduleConfig, progress: Progress, num_steps: int) -> bool:
    """Whether the next update is one that `relative_change` looks at."""
    if schedule.kind != "relative_change":
        return False
    # Before the first update some optimizers have no states yet.
    since = progress.num_updates - num_warmup_steps(schedule, num_steps)
    return progress.num_updates > 0 and since >= 0 and since % schedule.measure_every == 0


class Change:
    """Size of an update: |new - old| / |old|, L2 norms over all trained numbers in fp32, whoever holds them.

    Made before the step; the copy is in host memory, 4 bytes for each trained number that this rank speaks for.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._old = {
            (piece.name, piece.start): states["weight"].to("cpu", copy=True)
            for piece, states in engine.states()
            if piece.owned
        }

    def measured(self) -> float:
        """After the step; a collective, the same on all ranks and, to rounding, in all layouts."""
        moved = before = 0.0
        for piece, states in self._engine.states():
            if piece.owned:
                weight = states["weight"]
                old = self._old[piece.name, piece.start].to(weight.device)
                moved += _square_sum(weight - old)
                before += _square_sum(old)
        shares = self._engine.gather((moved, before))
        size = math.fsum(share for _, share in shares)
        return math.sqrt(math.fsum(share for share, _ in shares) / size) if size else math.inf


def _square_sum(numbers: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)) ** 2
