"""A run from its start to its end: checked before any process starts, started again where that can help."""

import ctypes.util
import shutil
import sys
from pathlib import Path

from toolkit.emitters import emit
from toolkit.emitters.command import launch_command
from toolkit.errors import INSTALL_LIBAIO, ConfigError, EngineError, MachineError, OutOfMemory, ToolkitError
from toolkit.launcher.attempt import Attempt, Outcome
from toolkit.launcher.processes import environment_for
from toolkit.launcher.replan import plan_on_fewer_ranks, plan_with_half_the_micro_batch
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder, check_preflight, checkpoint_step
from toolkit.specs.reading import read_mapping
from toolkit.specs.recipe import Recipe

MAX_RESTARTS = 3
GRACE_SECONDS = 60.0


def launch(
    folder: Path | str,
    *,
    overwrite: bool = False,
    resume: str | None = None,
    max_restarts: int = MAX_RESTARTS,
    grace_seconds: float = GRACE_SECONDS,
    preflight: str = "fast",
) -> RunFolder:
    """Train the run that `plan` and `emit` wrote into `folder`; returns when it has ended.

    A run that was interrupted goes on from its newest intact checkpoint. SIGTERM, SIGUSR1 and Ctrl-C let it save and
    leave.

    Args:
        folder: a run folder.
        overwrite: remove the results of a run that has trained there before, its checkpoints too.
        resume: "auto" or the step of a checkpoint, to go on from it even after the end of a run.
        max_restarts: how often in a row ranks that died or stood still are started again without a new checkpoint.
        grace_seconds: for the ranks to save and leave when asked to.
        preflight: what the ranks look at before their first step: "fast"; "full", which trains a tiny copy of the model
            in the same layout too; or "off".

    Raises:
        ConfigError: the folder is incomplete, holds a finished run, or its files contradict each other.
        MachineError: the plan swaps to a disk and this machine has no libaio.
        Preempted: the run was asked to leave, and has saved.
        ToolkitError: what else stopped the ranks, as they said it.
        EngineError: the processes died, and starting them again did not help.
    """
    run = RunFolder(Path(folder))
    run.require_inputs()
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    if plan.strategy.on_deepspeed:
        run.require_inputs(run.ds_config)
    _check_agreement(run, plan, recipe)
    _check_disk(plan)
    _check_resume(resume, overwrite=overwrite)
    check_preflight(preflight)
    run.lock().close()  # the ranks take it for as long as they train
    if not overwrite and resume is None:
        run.refuse_finished()
    options = ["--overwrite"] if overwrite else []
    options += ["--resume", resume] if resume is not None else []
    options += ["--preflight", preflight]
    _train(run, plan, recipe, options, max_restarts=max_restarts, grace_seconds=grace_seconds)
    return run


def _train(
    run: RunFolder, plan: Plan, recipe: Recipe, options: list[str], *, max_restarts: int, grace_seconds: float
) -> None:
    """Start the ranks until they end well, or starting them does not help."""
    without_progress, newest, began = 0, _newest_checkpoint(run), latest_written(run)
    environment = environment_for(plan.cluster.device.kind)
    while True:
        _set_aside(run)
        outcome = Attempt(run, grace_seconds=grace_seconds).wait(
            [*launch_command(run.path, plan), *options], environment
        )
        if outcome.error is None and outcome.status == 0:
            return
        instead: Plan | None = None
        if outcome.error is not None:
            reason = str(outcome.error).partition("\n")[0]
            instead = _plan_for_less_memory(outcome.error, plan, recipe)
        else:
            reason, now = _reason_to_start_again(run, outcome), _newest_checkpoint(run)
            without_progress, newest = (0 if now != newest else without_progress + 1), now
            if without_progress > max_restarts:
                instead = plan_on_fewer_ranks(plan, recipe)
                if instead is None:
                    raise _given_up(run, reason, max_restarts)
        if instead is not None:
            reason += f"; {instead.world_size} of {plan.world_size} ranks go on ({instead.strategy.words})"
            plan, without_progress = instead, 0
            emit(plan, run.path, recipe, overwrite=True)
        run.note("restarted", reason=reason)
        sys.stderr.write(f"{reason}; starting again from the last checkpoint\n")
        options = options_to_go_on(run, options, began=began)


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


def _newest_checkpoint(run: RunFolder) -> str:
    """Name of the newest published checkpoint; empty without one."""
    return run.latest.read_text(encoding="utf-8", errors="replace") if run.latest.is_file() else ""


def options_to_go_on(run: RunFolder, options: list[str], *, began: tuple[int, int] | None) -> list[str]:
    """What the ranks are started with again; a tiny copy is not trained again.

    What is there now is this run's own, unless they ended before they went back to the step of `--resume`.

    Args:
        run: the run folder.
        options: that they were started with.
        began: `latest_written` when the run began.
    """
    gone_back = latest_written(run) != began
    start = options[:2] if options[:1] == ["--resume"] and not gone_back else ["--resume", "auto"]
    return [*start, "--preflight", "off" if options[-1:] == ["off"] else "fast"]


def latest_written(run: RunFolder) -> tuple[int, int] | None:
    """Tells the file that names the newest checkpoint from one that was written later, even of the same step."""
    latest = run.latest
    return (latest.stat().st_ino, latest.stat().st_mtime_ns) if latest.is_file() else None


def _set_aside(run: RunFolder) -> None:
    """Keep the stacks of earlier attempts apart, and forget their heartbeats."""
    shutil.rmtree(run.heartbeats, ignore_errors=True)
    if stacks := list(run.faults.glob("rank-*.txt")):
        number = len(list(run.faults.glob("attempt-*"))) + 1
        (run.faults / f"attempt-{number}").mkdir()
        for path in stacks:
            path.rename(run.faults / f"attempt-{number}" / path.name)


def _check_resume(resume: str | None, *, overwrite: bool) -> None:
    if resume is not None and overwrite:
        raise ConfigError("--resume and --overwrite are both given; keep one of them")
    checkpoint_step(resume)


def _check_disk(plan: Plan) -> None:
    """Refuse here what every rank would refuse a minute later."""
    if plan.strategy.offload_to == "nvme" and ctypes.util.find_library("aio") is None:
        raise MachineError(
            f"the plan offloads to a disk, which needs libaio, not found here; {INSTALL_LIBAIO}, or plan again with "
            "--offload-to cpu"
        )


def _check_agreement(run: RunFolder, plan: Plan, recipe: Recipe) -> None:
    """Refuse edits that would make the ranks refuse, before any of them starts."""
    plan.check_workload(recipe.workload, run.path)
    plan.check_communication(recipe.communication)
    plan.check_recipe(recipe)
    processes = read_mapping(run.accelerate).get("num_processes")
    if not isinstance(processes, int):
        raise ConfigError(f"{run.accelerate}: num_processes is {processes!r}, needs {plan.world_size}")
    if processes != plan.world_size:
        raise ConfigError(
            f"{run.accelerate}: num_processes is {processes}, the plan has {plan.world_size} ranks; "
            f"plan again: {plan.replan_command(processes, run.path)}"
        )
