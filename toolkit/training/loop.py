"""The training loop: blind to engine, layout and method."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolkit.checkpoints.manifest import Progress, RateRecord
from toolkit.engines.base import Batch, Engine, StepResult
from toolkit.errors import EngineError, NumericalFault
from toolkit.run_folder import TRAINING
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import learning_rate
from toolkit.training.anomalies import Judge
from toolkit.training.checkpointing import Checkpointing
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.monitor import Monitor
from toolkit.training.rates import Change, after_change, measures_change
from toolkit.training.telemetry import Telemetry
from toolkit.training.watch import Watch, reason_to_stop


class Steps(Protocol):
    """This rank's micro-batches of any optimizer step, by number."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""

    def step(self, index: int, counts: Sequence[int] | None = None) -> Sequence[Batch]:
        """Micro-batches of optimizer step `index`, counted from 0 over all epochs; `counts`: of each replica."""

    def row_numbers(self, index: int) -> list[int]:
        """Rows of the data set in the global batch of step `index`."""


def num_steps(recipe: Recipe, batches: Steps) -> int:
    """Optimizer steps of the run."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    # 1.1 x 100 is 110.00000000000001 in binary, and that is no reason for a step more.
    return max(math.ceil(round((recipe.epochs or 1.0) * batches.steps_per_epoch, 9)), 1)


@dataclass(frozen=True)
class Trainer:
    """One run's loop and all that watches it; every rank has one, and all decide alike."""

    engine: Engine
    batches: Steps
    recipe: Recipe
    telemetry: Telemetry
    checkpointing: Checkpointing
    heartbeat: Heartbeat
    go_back: Callable[[], Progress]
    """Brings the engine to the last intact checkpoint."""
    watch: Watch
    monitor: Monitor

    def train(self, progress: Progress) -> Progress:
        """Run the steps that are left, or fewer where the recipe's `evaluation.patience` is over.

        Raises:
            EngineError: the loss is no number before any update.
            NumericalFault: as the recipe's `faults` ask for.
            Preempted: the run was asked to leave, and has saved.
            SaveFailed: a checkpoint could not be written, and the recipe wants the run to stop then.
        """
        judge = Judge(self.recipe.faults, scales_loss=self.recipe.workload.precision == "fp16")
        steps, bad_steps = num_steps(self.recipe, self.batches), 0
        self.heartbeat.phase(TRAINING)  # from here on the launcher may ask this rank to save and leave
        self.telemetry.start_clock()
        progress = self.watch.look(progress)  # a run that was asked to leave has put it off
        while progress.step < steps and reason_to_stop(self.recipe.evaluation, progress) is None:
            if progress.step in progress.left_out:
                progress = progress.model_copy(update={"step": progress.step + 1})
                continue
            result, rate = self._step(progress, steps)
            progress = progress.after(skipped=result.skipped, tokens=result.tokens)
            progress = progress.model_copy(update={"rate": rate})
            fault = judge.fault(result)
            bad_steps = bad_steps + 1 if fault else 0
            if fault is not None:
                progress = self._mend(fault, result, progress, bad_steps=bad_steps)
            self._compare(progress)
            self.checkpointing.listen(progress, noticed=result.noticed)
            progress = self.watch.look(progress)
            measured = self.watch.at(progress.step)
            self.checkpointing.after_step(progress, loss=None if measured is None else measured.loss)
        self.checkpointing.finish(progress)
        return progress

    def _step(self, progress: Progress, steps: int) -> tuple[StepResult, RateRecord]:
        """One step, and what it makes of the rate."""
        index, recipe, rate = progress.step, self.recipe, progress.rate
        peak, updates = recipe.optimizer.learning_rate, progress.num_updates
        lr = learning_rate(recipe.schedule, updates, num_steps=steps, peak=peak, factor=rate.factor)
        notice = self.checkpointing.notice()
        change, size = Change(self.engine) if measures_change(recipe.schedule, progress, steps) else None, None
        self.monitor.time.begin()
        micro_batches = self.batches.step(index, self.monitor.counts)
        data_seconds = self.monitor.time.lap("data")
        told = self.monitor.tells()
        result = self.engine.train_step(micro_batches, learning_rate=lr, notice=notice, told=told)
        if change is not None and not result.skipped:
            size = change.measured()
            rate = after_change(recipe.schedule, rate, size)
        self.monitor.time.lap("train_step")
        self.heartbeat.beat(index + 1)
        epoch = (index + 1) / self.batches.steps_per_epoch
        self.telemetry.record(index + 1, result, learning_rate=lr, epoch=epoch, change=size, data_seconds=data_seconds)
        self.monitor.after_step(index + 1, result)
        return result, rate

    def _compare(self, progress: Progress) -> None:
        """Find ranks whose copies of the same weights have come apart, before they are saved."""
        every = self.recipe.faults.compare_every
        if every is None or progress.step % every:
            return
        digests = self.engine.gather(self.engine.weights_digest())
        holders: dict[str, dict[str, list[int]]] = {}
        for rank, digest in enumerate(digests):
            if digest is not None:
                holders.setdefault(digest[0], {}).setdefault(digest[1], []).append(rank)
        for copies in holders.values():
            if len(copies) > 1:
                told = " and ".join(f"rank {', '.join(map(str, ranks))}" for ranks in copies.values())
                raise NumericalFault(
                    f"step {progress.step}: {told} hold different copies of the same weights; one of their devices or "
                    "links is at fault; the last checkpoint may hold it already, start from one that is older"
                )

    def _mend(self, fault: str, result: StepResult, progress: Progress, *, bad_steps: int) -> Progress:
        """What the recipe asks for after a bad step; where to go on."""
        config, index = self.recipe.faults, progress.step - 1
        rows = self.batches.row_numbers(index)
        self.telemetry.event("bad step", step=progress.step, reason=fault, rows=rows)
        if index == 0 and not math.isfinite(result.loss):
            raise EngineError(
                f"the loss is {result.loss} before any update: the model's own weights or the data hold NaN or Inf, "
                "or overflow in fp16; check the checkpoint, or train in bf16"
            )
        told = f"step {progress.step}: {fault}; its samples are rows {_shortened(rows)} of the training data"
        if config.on_bad_step == "rollback":
            return self._roll_back(told, progress)
        # A loss that only jumped was clipped as any other; one that is no number, with gradients that were not skipped,
        # has gone into the weights.
        harmless = result.skipped or math.isfinite(result.loss)
        if config.on_bad_step == "skip" and harmless and bad_steps < config.max_bad_steps:
            self.telemetry.say(
                f"WARNING: {told}; {'its update was left out' if result.skipped else 'training goes on'}"
            )
            return progress
        raise NumericalFault(
            f"{told}; {bad_steps} bad step(s) in a row; lower learning_rate, look at these rows, or train in bf16 if "
            "this is fp16; the last checkpoint is from before"
        )

    def _roll_back(self, told: str, progress: Progress) -> Progress:
        self.checkpointing.settle(progress.step)
        left_out = tuple(sorted({*progress.left_out, progress.step - 1}))
        if len(left_out) > self.recipe.faults.max_bad_steps:
            raise NumericalFault(f"{told}; {len(left_out)} batches had to be left out; look at them")
        earlier = self.go_back()
        if earlier.step == 0:
            raise NumericalFault(f"{told}; there is no checkpoint to go back to; set checkpoint.every_steps")
        self.telemetry.go_back(earlier.step, evaluated=earlier.held_out.step)
        self.monitor.go_back(earlier.step)
        self.telemetry.event("rolled back", step=earlier.step, left_out=list(left_out))
        self.telemetry.say(f"WARNING: {told}; back at step {earlier.step}, its batch is left out")
        return earlier.model_copy(update={"left_out": left_out})


def _shortened(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
