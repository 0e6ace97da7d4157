"""Evaluation during training: what is measured every so many steps, and what the run makes of it."""

import math
from dataclasses import dataclass, field

from toolkit.checkpoints.manifest import HeldOutRecord, Progress, RateRecord
from toolkit.engines.base import Engine
from toolkit.run_folder import TRAINING
from toolkit.specs.evaluation import EvaluationConfig
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import num_warmup_steps
from toolkit.training.evaluation import Evaluation, HeldOut, evaluate
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.rates import after_loss
from toolkit.training.telemetry import Telemetry


@dataclass
class Watch:
    """Measures on all ranks, and decides alike on each of them."""

    engine: Engine
    held_out: HeldOut | None
    recipe: Recipe
    telemetry: Telemetry
    heartbeat: Heartbeat
    num_steps: int
    _last: tuple[int, Evaluation] | None = field(default=None, init=False)

    def at(self, step: int) -> Evaluation | None:
        """What this process measured after that step, if that was the last time it did."""
        return self._last[1] if self._last is not None and self._last[0] == step else None

    def look(self, progress: Progress) -> Progress:
        """Measure where it is time to and was not done, and remember what the run decides by."""
        every, fingerprint = self.recipe.evaluation.every_steps, self.held_out.fingerprint if self.held_out else ""
        if every is None or progress.step % every or progress.step <= progress.held_out.step:
            return progress
        record, rate = progress.held_out, progress.rate
        if record.samples != fingerprint:
            # Losses on other samples say nothing about these; the rate stays where it is.
            record, rate = HeldOutRecord(samples=fingerprint), rate.model_copy(update={"level": None})
        loss = self._measure(progress.step).loss
        if loss is not None:
            record = remembered(self.recipe.evaluation, record, loss=loss, step=progress.step)
            rate = self._rate_after(loss, progress, rate)
        return progress.model_copy(update={"held_out": record.model_copy(update={"step": progress.step}), "rate": rate})

    def at_end(self, progress: Progress) -> None:
        """Measure after the last step too, for the curve and the choice of the weights; nothing else depends on it."""
        if self.recipe.evaluation.every_steps is not None and self.at(progress.step) is None:
            self._measure(progress.step)

    def better_step(self, progress: Progress) -> int | None:
        """The step whose weights are to be exported in place of the last ones."""
        record, last = progress.held_out, self.at(progress.step)
        if record.best is None or record.best_step == progress.step:
            return None
        last_is_best = last is not None and last.loss is not None and last.loss < record.best
        return None if last_is_best else record.best_step

    def _measure(self, step: int) -> Evaluation:
        self.heartbeat.phase(TRAINING)  # more patience than with a step, and still asked to leave by a signal
        found = evaluate(self.engine, self.held_out)
        self._last = (step, found)
        self.telemetry.evaluated(step, found)
        self.telemetry.start_clock()
        return found

    def _rate_after(self, loss: float, progress: Progress, rate: RateRecord) -> RateRecord:
        schedule = self.recipe.schedule
        if schedule.kind != "plateau" or progress.num_updates < num_warmup_steps(schedule, self.num_steps):
            return rate
        changed = after_loss(schedule, rate, loss)
        if changed.factor != rate.factor:
            self.telemetry.event("rate lowered", step=progress.step, factor=changed.factor)
            self.telemetry.say(
                f"step {progress.step}: the held-out loss no longer falls; learning rate down to {changed.factor:.3g} "
                "of its peak"
            )
        return changed


def remembered(config: EvaluationConfig, record: HeldOutRecord, *, loss: float, step: int) -> HeldOutRecord:
    """What is known after one more held-out loss; one that is no number is never better."""
    better = loss < (math.inf if record.level is None else record.level - config.min_improvement)
    found = record.model_copy(
        update={"level": loss if better else record.level, "waited": 0 if better else record.waited + 1}
    )
    if not config.export_best:
        return found.model_copy(update={"best": None, "best_step": None})
    if loss < (math.inf if record.best is None else record.best):
        return found.model_copy(update={"best": loss, "best_step": step})
    return found


def reason_to_stop(config: EvaluationConfig, progress: Progress) -> str | None:
    """Why the run ends before its last step; None if it goes on."""
    record = progress.held_out
    if config.patience is None or record.waited < config.patience:
        return None
    level = "no number" if record.level is None else f"{record.level:.4f}"
    by = f" by more than {config.min_improvement:g}" if config.min_improvement else ""
    return (
        f"stopped early after step {progress.step}: the held-out loss, {level} at its last improvement, has not fallen"
        f"{by} in {record.waited} evaluation{'s' if record.waited > 1 else ''}"
    )
