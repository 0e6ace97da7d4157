"""Going on: the newest checkpoint that is intact, whatever layout wrote it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from toolkit.checkpoints.identity import check_identity
from toolkit.checkpoints.manifest import Manifest, Progress, UnknownFormat
from toolkit.checkpoints.shard import Shards
from toolkit.checkpoints.store import Store, altered_file, read_manifest
from toolkit.engines.base import CLIPPING, Engine
from toolkit.errors import CheckpointError
from toolkit.planner.plan import Plan


def resume(
    engine: Engine, store: Store, *, plan: Plan, identity: Mapping[str, str], step: int | None = None
) -> Progress:
    """Bring the engine to where a checkpoint was saved; all ranks call it.

    Args:
        engine: fresh.
        store: where the checkpoints lie.
        plan: what runs now.
        identity: of the run.
        step: which one; without it the newest that is intact, and a new beginning where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, but none is intact, or the one found is of another run.
    """
    if engine.rank == 0:
        store.clean()
    say = print if engine.rank == 0 else _not_this_rank
    steps = engine.gather(store.steps())[0]
    if step is not None and step not in steps:
        known = f"there are {', '.join(map(str, sorted(steps)))}" if steps else "there is none"
        raise CheckpointError(f"{store.path}: no checkpoint of step {step}; {known}")
    faults = []
    for each in steps if step is None else [step]:
        folder = store.folder(each)
        manifest, fault = _checked(engine, folder)
        if manifest is None:
            faults.append(fault)
            say(f"checkpoint {folder.name} is left out: {fault}")
            continue
        check_identity(str(folder), manifest.identity, identity)
        _load(engine, folder, manifest, plan=plan, say=say)
        return manifest.progress
    if faults:
        raise CheckpointError(
            "\n".join(
                [*faults, f"{store.path}: none of {len(faults)} checkpoint(s) is intact; --overwrite begins anew"]
            )
        )
    return Progress()


def set_aside_later(engine: Engine, store: Store, *, step: int) -> Path | None:
    """Move checkpoints after that step, to which the run has gone back, out of its way; all ranks call it.

    They are not of what is trained now: the newest of them would be gone on from after the next fault, and those that
    are saved now would count as older ones, and go.

    Returns:
        The folder that they are in now; None where there are none.

    Raises:
        CheckpointError: they cannot be moved.
    """
    aside: Path | None = None
    fault: str | None = None
    if engine.rank == 0:
        try:
            aside = store.set_aside(after=step)
        except OSError as error:
            fault = f"{store.path}: checkpoints after step {step} cannot be moved ({error.strerror}); make it writable"
    found: tuple[Path | None, str | None] = engine.gather((aside, fault))[0]
    if found[1] is not None:
        raise CheckpointError(found[1])
    return found[0]


def _checked(engine: Engine, folder: Path) -> tuple[Manifest | None, str]:
    """The manifest, or why the checkpoint cannot be used; the same on all ranks, each of which reads some files."""
    manifest, fault = None, ""
    try:
        manifest = read_manifest(folder)
    except UnknownFormat:
        raise
    except CheckpointError as error:
        fault = str(error)
    if all(engine.gather(manifest is not None)):
        assert manifest is not None, "this rank's own answer was part of it"
        fault = altered_file(folder, manifest, part=engine.rank, parts=engine.world_size) or ""
    found = [told for told in engine.gather(fault) if told]
    return (None, found[0]) if found else (manifest, "")


def _load(engine: Engine, folder: Path, manifest: Manifest, *, plan: Plan, say: Callable[[str], None]) -> None:
    shards = Shards(folder, manifest.num_ranks)
    progress = manifest.progress
    told = engine.load_states(shards.read, num_updates=progress.num_updates, counters=manifest.counters)
    say(f"going on from {folder.name}: {progress.num_updates} updates, {progress.tokens:,} tokens behind")
    for note in told:
        say(note)
    if manifest.strategy == plan.strategy.words and manifest.num_ranks == engine.world_size:
        restore_rng(shards.rng(engine.rank), engine.device)
    else:
        # Another layout draws other numbers for dropout; all else is the same.
        say(
            f"saved by {manifest.num_ranks} ranks ({manifest.strategy}), goes on with {engine.world_size} "
            f"({plan.strategy.words}): optimizer states divided anew"
        )
    learned = {name for name in manifest.counters if name.startswith(CLIPPING)}
    if learned and learned.isdisjoint(engine.counters()):
        say("clipping is of another kind than before: what its threshold had learned is left, and it begins anew")
    if manifest.precision != (now := plan.workload.precision_words):
        say(f"trained in {manifest.precision} so far, now in {now}")


def _not_this_rank(text: str) -> None:
    """Rank 0 speaks."""


def restore_rng(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Continue torch's random numbers of this rank."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
