"""A run's ranks started again, where that can help, until they end well."""

import sys
from collections.abc import Sequence
from typing import Protocol

from toolkit.emitters import emit
from toolkit.errors import EngineError, OutOfMemory, ToolkitError
from toolkit.launcher.attempt import Outcome
from toolkit.launcher.options import LaunchOptions
from toolkit.launcher.replan import plan_with_half_the_micro_batch, recipe_for
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

Written = tuple[int, int] | None
"""Tells a file from one that was written later in its place: inode and time; None without a file."""


class Ranks(Protocol):
    """Where the ranks of a run are started: this machine, or several hosts."""

    def start(self, plan: Plan, options: Sequence[str]) -> Outcome:
        """One attempt, from the files in the run folder to the end of all ranks."""

    def newest(self) -> tuple[str, Written]:
        """Name of the newest published checkpoint, empty without one, and the file that says so."""

    def note(self, reason: str) -> None:
        """Have `events.jsonl` tell why the ranks are started again."""

    def fewer(self, plan: Plan, recipe: Recipe) -> Plan | None:
        """The plan to go on with where starting all of them again does not help; None where there is none."""

    def present(self, plan: Plan) -> Plan:
        """The plan for the machines that are there now, whose files are in the run folder; the same one where nothing
        has changed."""


def train(run: RunFolder, plan: Plan, *, recipe: Recipe, options: LaunchOptions, ranks: Ranks) -> None:
    """Start the ranks until they end well, or starting them does not help.

    Raises:
        ToolkitError: what stopped the ranks, as they said it.
        EngineError: they died, and starting them again did not help.
    """
    without_progress, (newest, began) = 0, ranks.newest()
    words, plan = options.words(), ranks.present(plan)
    while True:
        outcome = ranks.start(plan, words)
        if outcome.error is None and outcome.status == 0:
            return
        instead: Plan | None = None
        if outcome.error is not None:
            reason = str(outcome.error).partition("\n")[0]
            instead = _plan_for_less_memory(outcome.error, plan, recipe)
        else:
            reason, (now, _) = _reason_to_start_again(run, outcome), ranks.newest()
            without_progress, newest = (
                (0 if now != newest or outcome.joined or outcome.leaving else without_progress + 1),
                now,
            )
            if without_progress > options.max_restarts:
                instead = ranks.fewer(plan, recipe)
                if instead is None:
                    raise _given_up(run, reason, options.max_restarts)
        if instead is not None:
            without_progress = 0
            emit(instead, run.path, recipe_for(instead, recipe), overwrite=True)
        before, plan = plan, ranks.present(instead or plan)
        if plan is not before:
            most = max(plan.world_size, before.world_size)
            reason += f"; {plan.world_size} of {most} ranks go on ({plan.strategy.words})"
        ranks.note(reason)
        sys.stderr.write(f"{reason}; starting again from the last checkpoint\n")
        words = options_to_go_on(words, gone_back=ranks.newest()[1] != began)


def _plan_for_less_memory(error: ToolkitError, plan: Plan, recipe: Recipe) -> Plan:
    """What to do about the error that ended the ranks: it is raised where starting them again is no help."""
    instead = plan_with_half_the_micro_batch(plan, recipe) if isinstance(error, OutOfMemory) else None
    if instead is None:
        raise error
    return instead


def _reason_to_start_again(run: RunFolder, outcome: Outcome) -> str:
    """How the ranks ended.

    Raises:
        EngineError: they had not begun to train; it would be the same again.
    """
    if outcome.lost:
        return f"{' and '.join(outcome.lost)} lost: not heard of any more"
    if outcome.leaving:
        return f"{' and '.join(outcome.leaving)} is being taken away"
    if outcome.joined:
        return f"{' and '.join(outcome.joined)} is back"
    reason = f"the ranks ended with exit code {outcome.status}; the reason is in the output above"
    if outcome.hung:
        ranks = ", ".join(str(int(name.removeprefix("rank-").removesuffix(".txt"))) for name in outcome.hung)
        reason = f"rank {ranks} stood still; where is in {run.faults}"
    if not outcome.started:
        raise EngineError(f"{run.path}: {reason}; they had not begun to train, so they are not started again")
    return reason


def _given_up(run: RunFolder, reason: str, max_restarts: int) -> EngineError:
    times = f" after {max_restarts} restarts without a new checkpoint" if max_restarts else ""
    return EngineError(f"{run.path}: {reason}{times}; `toolkit launch {run.path}` goes on from the last checkpoint")


def options_to_go_on(options: list[str], *, gone_back: bool) -> list[str]:
    """What the ranks are started with again; a tiny copy is not trained again.

    What is there now is this run's own, unless they ended before they went back to the step of `--resume`.

    Args:
        options: that they were started with.
        gone_back: whether a checkpoint was named the newest since the run began.
    """
    start = options[:2] if options[:1] == ["--resume"] and not gone_back else ["--resume", "auto"]
    return [*start, "--preflight", "off" if options[-1:] == ["off"] else "fast"]
