"""A run's training from the checkpoint it goes on from to its last step, with all that watches it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import RenderableType

from toolkit.checkpoints.manifest import Progress
from toolkit.checkpoints.resume import resume, set_aside_later
from toolkit.checkpoints.save import Saver
from toolkit.checkpoints.shelf import Shelf
from toolkit.engines.base import Engine
from toolkit.errors import CheckpointError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.training.checkpointing import Checkpointing
from toolkit.training.evaluation import Evaluation, HeldOut
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.loop import Steps, Trainer, num_steps
from toolkit.training.monitor import Monitor
from toolkit.training.signals import Signals
from toolkit.training.telemetry import Telemetry
from toolkit.training.trackers import open_trackers
from toolkit.training.watch import Watch, reason_to_stop
from toolkit.versions import installed_versions


@dataclass(frozen=True)
class Trained:
    """What a session comes to."""

    records: list[dict[str, Any]]
    """Of all steps, those before a restart too; on rank 0."""
    stopped_early: str | None
    """Why, where the run ended before its last step."""
    exported_step: int | None
    """Whose weights the engine holds now, where they are not the last ones but the best."""
    evaluation: Evaluation | None
    """Of the weights that it holds, where they have been measured already."""

    @property
    def facts(self) -> dict[str, Any]:
        """For summary.json."""
        return {"stopped_early": self.stopped_early, "exported_step": self.exported_step}


@dataclass(frozen=True)
class Session:
    """What a run trains with."""

    folder: RunFolder
    plan: Plan
    recipe: Recipe
    engine: Engine
    batches: Steps
    held_out: HeldOut | None
    identity: dict[str, str]
    """What must be the same for a run to go on from a checkpoint."""
    shelf: Shelf
    """Where its checkpoints lie."""
    before: Evaluation | None = None
    """Measured before the first step."""

    def train(self, heartbeat: Heartbeat, *, step: int | None, introduction: RenderableType) -> Trained:
        """Go on from a checkpoint and run the steps that are left.

        Args:
            heartbeat: of this rank.
            step: of the checkpoint, those after which are set aside; without it the newest intact one, or the beginning
                where there is none.
            introduction: shown before the first step.
        """
        engine, recipe = self.engine, self.recipe
        config = recipe.checkpoint
        saver = Saver(self.shelf, engine, plan=self.plan, identity=self.identity)
        go_back = partial(resume, engine, self.shelf, plan=self.plan, identity=self.identity)
        progress = go_back(step=step)
        aside = None if step is None else set_aside_later(engine, self.shelf, step=step)
        trackers = open_trackers(recipe.trackers, self.folder) if engine.rank == 0 else ()
        steps, evaluated = num_steps(recipe, self.batches), progress.held_out.step
        telemetry = Telemetry(
            self.folder, engine, num_steps=steps, trackers=trackers, done=progress.step, evaluated=evaluated
        )
        with Signals() as signals, telemetry:
            telemetry.event("started", step=progress.step, num_steps=steps, versions=installed_versions())
            telemetry.say(introduction)
            if aside is not None:
                telemetry.event("checkpoints set aside", step=progress.step, folder=aside.rpartition("/")[2])
                telemetry.say(f"checkpoints after step {progress.step} are of what was trained before; now in {aside}")
            self._tell_before(telemetry)
            watch = Watch(engine, self.held_out, recipe, telemetry, heartbeat, steps)
            checkpointing = Checkpointing(
                saver, engine, config=config, signals=signals, telemetry=telemetry, held_out=self.held_out
            )
            monitor = Monitor(self.folder, engine, telemetry, plan=self.plan, recipe=recipe, done=progress.step)
            trainer = Trainer(
                engine, self.batches, recipe, telemetry, checkpointing, heartbeat, go_back, watch, monitor
            )
            progress = trainer.train(progress)
            stopped = reason_to_stop(recipe.evaluation, progress) if progress.step < steps else None
            if stopped is not None:
                telemetry.event("stopped early", step=progress.step, reason=stopped)
                telemetry.say(stopped)
            watch.at_end(progress)
            exported = _best_weights(progress, watch, telemetry=telemetry, go_back=go_back)
        return Trained(telemetry.records, stopped, exported, watch.at(progress.step) if exported is None else None)

    def _tell_before(self, telemetry: Telemetry) -> None:
        """The curve's beginning, where there is to be one, and what is left out of it."""
        if self.before is None:
            return
        if self.before.note is not None:
            telemetry.say(f"WARNING: {self.before.note}")
        wanted = self.recipe.evaluation.every_steps is not None and self.before.numbers
        if wanted and not self.folder.evaluations.exists():
            telemetry.evaluated(0, self.before)


def _best_weights(
    progress: Progress, watch: Watch, *, telemetry: Telemetry, go_back: Callable[..., Progress]
) -> int | None:
    """Bring the engine to the best checkpoint, where the recipe wants its weights; its step, None for the last ones."""
    best = watch.better_step(progress)
    if best is None:
        return None
    watch.heartbeat.phase("best weights")
    try:
        go_back(step=best)
    except CheckpointError as error:
        # It could not be written, or is damaged. A run ends with an export all the same.
        telemetry.event("best weights lost", step=best, reason=str(error))
        telemetry.say(f"WARNING: the last weights are exported, not those of step {best}, which were better: {error}")
        return None
    telemetry.event("best weights", step=best, held_out_loss=progress.held_out.best)
    telemetry.say(f"the weights of step {best}, with a held-out loss of {progress.held_out.best:.4f}, are exported")
    return best
