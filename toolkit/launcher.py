"""Starts processes: a run through `accelerate launch`, ranks that measure directly; the only module that may."""

import contextlib
import ctypes
import ctypes.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from toolkit import errors
from toolkit.emitters.command import CPU_ENVIRONMENT, QUIET_ENVIRONMENT, launch_command
from toolkit.errors import INSTALL_LIBAIO, INSTALL_TRAINING, ConfigError, EngineError, MachineError, ToolkitError
from toolkit.planner.plan import Plan
from toolkit.run_folder import ERROR_MARK, RunFolder
from toolkit.specs.machine import local_sockets
from toolkit.specs.reading import read_mapping
from toolkit.specs.recipe import Recipe

_GRACE_SECONDS = 30
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


def launch(folder: Path | str, *, overwrite: bool = False) -> RunFolder:
    """Train the run that `plan` and `emit` wrote into `folder`; returns when it has ended.

    Args:
        folder: a run folder.
        overwrite: remove the results of a run that has trained there before.

    Raises:
        ConfigError: the folder is incomplete, holds results, or its files contradict each other.
        MachineError: the plan swaps to a disk and this machine has no libaio.
        ToolkitError: what stopped the ranks, as they said it.
        EngineError: the processes died without saying why; their output is above.
    """
    run = RunFolder(Path(folder))
    run.require_inputs()
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    _check_agreement(run, plan, recipe)
    _check_disk(plan)
    run.lock().close()  # the ranks take it for as long as they train
    if not overwrite:
        run.refuse_results()
    command = launch_command(run.path, plan) + (["--overwrite"] if overwrite else [])
    status = _run(command, _environment(plan.cluster.device.kind))
    if status != 0:
        raise EngineError(f"{run.path}: the run ended with exit code {status}; the reason is in the output above")
    return run


def _check_disk(plan: Plan) -> None:
    """Refuse here what every rank would refuse a minute later."""
    if plan.strategy.offload_to == "nvme" and ctypes.util.find_library("aio") is None:
        raise MachineError(
            f"the plan offloads to a disk, which needs libaio, not found here; {INSTALL_LIBAIO}, or plan again with "
            "--offload-to cpu"
        )


def run_ranks(
    module: str, arguments: Sequence[str], *, num_ranks: int, kind: Literal["cuda", "cpu"], logs: Path, timeout_s: float
) -> None:
    """Run `python -m module arguments` as that many ranks on this machine, in the environment of a training run.

    RANK and WORLD_SIZE tell each which it is; they meet as they like. Rank 0 may write to stdout.

    Args:
        module: dotted name.
        arguments: the same for all ranks.
        num_ranks: processes to start.
        kind: what the ranks run on.
        logs: folder for the ranks' stderr; shown only of a rank that fails.
        timeout_s: ranks that take longer are ended.

    Raises:
        ToolkitError: what stopped the first rank that failed, as it said it.
        EngineError: a rank died without saying why, or the time is over.
    """
    # accelerate gives ranks on GPUs one thread each unless told otherwise.
    environment = {"OMP_NUM_THREADS": "1"} | _environment(kind) | {"WORLD_SIZE": str(num_ranks)}
    command = [sys.executable, "-m", module, *arguments]
    ranks: list[subprocess.Popen[str]] = []
    deadline = time.monotonic() + timeout_s
    with _ended_by_sigterm():
        try:
            for rank in range(num_ranks):
                with (logs / f"rank{rank}.log").open("w") as log:
                    own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    out = None if rank == 0 else subprocess.DEVNULL
                    start = subprocess.Popen(
                        command, env=own, stdout=out, stderr=log, text=True, preexec_fn=_die_with_parent
                    )
                    ranks.append(start)
            while any(rank.poll() is None for rank in ranks):
                if any(rank.poll() for rank in ranks):
                    break
                if time.monotonic() > deadline:
                    raise EngineError(f"the {num_ranks} rank(s) had not ended after {timeout_s:.0f} s; stopped")
                time.sleep(_POLL_SECONDS)
            failed = {number: rank.returncode for number, rank in enumerate(ranks) if rank.poll()}
        finally:
            # A dead rank leaves the others waiting for it in a collective, for ever.
            for process in ranks:
                process.kill()
                process.wait()
    if failed:
        raise _rank_error(failed, logs)


def _rank_error(failed: dict[int, int], logs: Path) -> ToolkitError:
    """What the rank that failed first said; the others have only lost it. A killed rank says nothing."""
    killed = [rank for rank, status in failed.items() if status < 0]
    first = killed[0] if killed else min(failed, key=lambda rank: (logs / f"rank{rank}.log").stat().st_mtime_ns)
    lines = (logs / f"rank{first}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix(ERROR_MARK).partition(": ") for line in lines if line.startswith(ERROR_MARK)]
    if said:
        kind: type[ToolkitError] = getattr(errors, said[0][0], ToolkitError)
        return kind("\n".join(text for _, _, text in said))
    end = f"was killed by {signal.Signals(-failed[first]).name}" if killed else f"ended with exit code {failed[first]}"
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return EngineError(f"rank {first} {end}: {last}")


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


def _environment(kind: str) -> dict[str, str]:
    # `launch` and `run_ranks` start ranks on this machine only.
    environment = QUIET_ENVIRONMENT | local_sockets() | os.environ
    # DeepSpeed finds ninja and accelerate finds python on PATH, which a venv that is not activated is not part of.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if kind == "cpu":
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
