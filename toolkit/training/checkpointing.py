"""When a run saves: by steps, by the clock, when it is asked to leave, and at its end."""

import math
import time
from typing import NamedTuple

from toolkit.checkpoints.manifest import Progress
from toolkit.checkpoints.save import Saver
from toolkit.engines.base import Engine
from toolkit.errors import Preempted, SaveFailed
from toolkit.specs.reliability import CheckpointConfig
from toolkit.training.evaluation import HeldOut
from toolkit.training.signals import Signals
from toolkit.training.telemetry import Telemetry

_POLL_SECONDS = 0.05


class _Notice(NamedTuple):
    """What one rank tells the others after a step that somebody had a notice in."""

    signal: str | None
    failure: str | None
    due: bool


class Checkpointing:
    """Decides after each step, on all ranks alike: first `listen`, then, with what was measured, `after_step`.

    Args:
        saver: writes.
        config: of the recipe.
        signals: that were received.
        telemetry: for the events.
        held_out: samples whose loss is measured where the best checkpoint is to be kept.
    """

    def __init__(
        self,
        saver: Saver,
        engine: Engine,
        *,
        config: CheckpointConfig,
        signals: Signals,
        telemetry: Telemetry,
        held_out: HeldOut | None,
    ) -> None:
        self._saver, self._engine, self._config = saver, engine, config
        self._signals, self._telemetry, self._held_out = signals, telemetry, held_out
        self._last = time.monotonic()
        self._saved_step = 0
        self._time_is_up = False

    def notice(self) -> bool:
        """Whether this rank has something to tell the others."""
        return any(self._notice())

    def listen(self, progress: Progress, *, noticed: bool) -> None:
        """Hear what the ranks have to tell each other, and leave where one was asked to; an evaluation has to wait.

        Raises:
            Preempted: the run was asked to leave, and has saved.
            SaveFailed: a checkpoint could not be written, and the recipe wants the run to stop then, or it was asked to
                leave.
        """
        self._time_is_up = False
        if not noticed:
            return
        notices: list[_Notice] = self._engine.gather(self._notice())
        self._tell_failures([each.failure for each in notices if each.failure], progress.step)
        self._time_is_up = notices[0].due
        leaving = next((each.signal for each in notices if each.signal), None)
        if leaving is not None:
            if not self.save(progress, wait=True):
                raise SaveFailed(f"{leaving}: left after step {progress.step}, of which no checkpoint could be written")
            self._telemetry.event("preempted", step=progress.step, signal=leaving)
            raise Preempted(f"{leaving}: saved after step {progress.step}; the same command goes on from there")

    def after_step(self, progress: Progress, *, loss: float | None = None) -> None:
        """Save if it is time to, or if the weights are the best so far and are to be exported.

        Args:
            progress: of the run.
            loss: on the held-out samples, where it was measured after this step.

        Raises:
            SaveFailed: a checkpoint could not be written, and the recipe wants the run to stop then.
        """
        every = self._config.every_steps
        due = every is not None and progress.step % every == 0
        if due or self._time_is_up or progress.held_out.best_step == progress.step:
            self.save(progress, loss=loss)

    def finish(self, progress: Progress) -> None:
        """Save the end of the run, if asked to, and let no writer be cut off."""
        if self._config.at_end and progress.step != self._saved_step:
            self.save(progress, wait=True)
        self.settle(progress.step)

    def save(self, progress: Progress, *, wait: bool = False, loss: float | None = None) -> bool:
        """Begin a checkpoint; with `wait`, see it published. False if it could not be written."""
        started = time.perf_counter()
        self.settle(progress.step)
        failure = self._saver.begin(progress, held_out_loss=self._held_out_loss(loss))
        self._last, self._saved_step = time.monotonic(), progress.step
        if failure is not None:
            self._tell_failures([failure], progress.step)
            return False
        if (wait or not self._config.asynchronous) and not self.settle(progress.step):
            return False
        stall = time.perf_counter() - started
        self._telemetry.event("checkpoint", step=progress.step, stall_seconds=stall, num_bytes=self._saver.num_bytes)
        self._telemetry.start_clock()
        return True

    def settle(self, step: int) -> bool:
        """Wait for the writers of all ranks, or for one of them to fail; False if one did."""
        while True:
            states = self._engine.gather((self._saver.idle, self._saver.failure))
            failures = [failure for _, failure in states if failure]
            if failures or all(idle for idle, _ in states):
                break
            time.sleep(_POLL_SECONDS)
        self._tell_failures(failures, step)
        return not failures

    def _held_out_loss(self, known: float | None) -> float | None:
        if known is not None:
            return known if math.isfinite(known) else None
        if not self._config.keep_best or self._held_out is None or not self._held_out.loss_batches:
            return None
        return self._engine.eval_loss(self._held_out.loss_batches)

    def _notice(self) -> _Notice:
        minutes = self._config.every_minutes
        # The first rank's clock counts for all.
        due = self._engine.rank == 0 and minutes is not None and time.monotonic() - self._last > 60 * minutes
        return _Notice(self._signals.received, self._saver.failure, due)

    def _tell_failures(self, failures: list[str], step: int) -> None:
        if not failures:
            return
        self._saver.abandon()
        told = f"no checkpoint at step {self._saved_step}: {failures[0]}"
        self._telemetry.event("checkpoint failed", step=step, reason=failures[0])
        if self._config.on_failure == "stop":
            raise SaveFailed(told)
        self._telemetry.say(f"WARNING: {told}")
