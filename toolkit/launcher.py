"""Starts a run's processes through `accelerate launch`; the only module that may start programs."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from toolkit import errors
from toolkit.emitters.command import CPU_ENVIRONMENT, launch_command
from toolkit.errors import INSTALL_TRAINING, ConfigError, EngineError, MachineError, ToolkitError
from toolkit.planner.plan import Plan
from toolkit.run_folder import ERROR_MARK, RunFolder
from toolkit.specs.base import read_mapping
from toolkit.specs.recipe import Recipe

_GRACE_SECONDS = 30
_PR_SET_PDEATHSIG = 1


def launch(folder: Path | str, *, overwrite: bool = False) -> RunFolder:
    """Train the run that `plan` and `emit` wrote into `folder`; returns when it has ended.

    Args:
        folder: a run folder.
        overwrite: remove the results of a run that has trained there before.

    Raises:
        ConfigError: the folder is incomplete, holds results, or its files contradict each other.
        ToolkitError: what stopped the ranks, as they said it.
        EngineError: the processes died without saying why; their output is above.
    """
    run = RunFolder(Path(folder))
    run.require_inputs()
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    _check_agreement(run, plan, recipe)
    if not overwrite:
        run.refuse_results()
    command = launch_command(run.path, plan) + (["--overwrite"] if overwrite else [])
    status = _run(command, _environment(plan))
    if status != 0:
        raise EngineError(f"{run.path}: the run ended with exit code {status}; the reason is in the output above")
    return run


def _check_agreement(run: RunFolder, plan: Plan, recipe: Recipe) -> None:
    """Refuse edits that would make the ranks refuse, before any of them starts."""
    plan.check_workload(recipe.workload, run.path)
    processes = read_mapping(run.accelerate).get("num_processes")
    if not isinstance(processes, int):
        raise ConfigError(f"{run.accelerate}: num_processes is {processes!r}, needs {plan.world_size}")
    if processes != plan.world_size:
        raise ConfigError(
            f"{run.accelerate}: num_processes is {processes}, the plan has {plan.world_size} ranks; "
            f"plan again: {plan.replan_command(processes, run.path)}"
        )


def _environment(plan: Plan) -> dict[str, str]:
    environment = dict(os.environ)
    # DeepSpeed finds ninja and accelerate finds python on PATH, which a venv that is not activated is not part of.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if plan.cluster.device.kind == "cpu":
        environment |= CPU_ENVIRONMENT
    return environment


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run to the end; the ranks' own error becomes ours, without the launcher's traceback behind it."""
    try:
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace", preexec_fn=_die_with_parent
        )
    except FileNotFoundError:
        raise MachineError(f"`accelerate` is not installed; {INSTALL_TRAINING}") from None
    said: list[str] = []
    kind = ToolkitError.__name__
    with process, _ended_by_sigterm():
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith(ERROR_MARK):
                    kind, _, text = line.removeprefix(ERROR_MARK).rstrip("\n").partition(": ")
                    said.append(text)
                elif not said:
                    sys.stderr.write(line)
        except BaseException:
            _end(process)
            raise
    if said:
        raise getattr(errors, kind, ToolkitError)("\n".join(dict.fromkeys(said)))
    return process.returncode


def _end(process: subprocess.Popen[str]) -> None:
    """accelerate passes SIGTERM on to its ranks; without this they would train on, as orphans."""
    process.terminate()
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM (a scheduler, `timeout`, `kill`) ends the block as Ctrl-C does; else it would end this process only."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    """In the child: ask Linux for SIGTERM if this process is killed outright, so that no rank is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
