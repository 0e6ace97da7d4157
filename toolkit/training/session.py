"""A run's training from the checkpoint it goes on from to its last step, with all that watches it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import RenderableType

from toolkit.checkpoints.resume import resume
from toolkit.checkpoints.save import Saver
from toolkit.engines.base import Engine
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.training.checkpointing import Checkpointing
from toolkit.training.evaluation import HeldOut
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.loop import Steps, Trainer, num_steps
from toolkit.training.signals import Signals
from toolkit.training.telemetry import Telemetry
from toolkit.training.trackers import open_trackers


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

    def train(self, heartbeat: Heartbeat, *, step: int | None, introduction: RenderableType) -> list[dict[str, Any]]:
        """Go on from a checkpoint and run the steps that are left.

        Args:
            heartbeat: of this rank.
            step: of the checkpoint; without it the newest intact one, or the beginning where there is none.
            introduction: shown before the first step.

        Returns:
            The records of all steps, those before a restart too; on rank 0.
        """
        engine, recipe = self.engine, self.recipe
        config = recipe.checkpoint
        saver = Saver(self.folder, engine, plan=self.plan, identity=self.identity, config=config)
        go_back = partial(resume, engine, saver.store, plan=self.plan, identity=self.identity)
        progress = go_back(step=step)
        trackers = open_trackers(recipe.trackers, self.folder) if engine.rank == 0 else ()
        steps = num_steps(recipe, self.batches)
        with (
            Signals() as signals,
            Telemetry(self.folder, engine, num_steps=steps, trackers=trackers, done=progress.step) as telemetry,
        ):
            telemetry.say(introduction)
            checkpointing = Checkpointing(
                saver, engine, config=config, signals=signals, telemetry=telemetry, held_out=self.held_out
            )
            Trainer(engine, self.batches, recipe, telemetry, checkpointing, heartbeat, go_back).train(progress)
        return telemetry.records
