"""Saving: every rank copies its states to host memory, then writes them while training goes on.

The ranks' writers meet in the file system, not in collectives, which belong to the training: each puts a small file
beside its own when that is on the disk and was read back; rank 0 waits for all of them, and publishes.
"""

import json
import secrets
import shutil
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from toolkit.checkpoints.manifest import FileEntry, Manifest, Progress, file_entry
from toolkit.checkpoints.retention import kept_steps
from toolkit.checkpoints.shard import Staged, shard_name
from toolkit.checkpoints.store import Store, sync
from toolkit.engines.base import Engine
from toolkit.errors import CheckpointError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.reliability import CheckpointConfig
from toolkit.units import human_bytes
from toolkit.versions import installed_versions

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 3600.0
"""How long rank 0 waits for another rank's file: as long as the slowest disk may take for it."""


class Saver:
    """Saves a run's checkpoints; `begin` is a collective.

    Args:
        folder: of the run.
        engine: gives the states.
        plan: what runs; goes along.
        identity: what must be the same for a run to go on from the checkpoint.
        config: how many stay.
    """

    def __init__(
        self, folder: RunFolder, engine: Engine, *, plan: Plan, identity: dict[str, str], config: CheckpointConfig
    ) -> None:
        self.store = Store(folder.checkpoints)
        self._run, self._engine, self._plan, self._identity, self._config = folder, engine, plan, identity, config
        self._staged = Staged()
        self._writer: threading.Thread | None = None
        self._failure: str | None = None
        self._abandoned = threading.Event()
        self.num_bytes = 0
        """Of all ranks' files of the last checkpoint."""

    def begin(self, progress: Progress, *, held_out_loss: float | None = None) -> str | None:
        """Copy, and start to write; nothing else may be under way.

        Returns:
            Why nothing could be saved, on all ranks alike; None where the writing has begun.
        """
        assert self.idle, "the last checkpoint is still being written"
        token = self._engine.gather(secrets.token_hex(4))[0]
        partial = self.store.partial(progress.step, token)
        self._engine.prepare_to_save()
        counters = self._engine.counters()
        problem = None
        try:
            self._staged.fill(self._engine.states(), rng_states(self._engine.device))
            if self._engine.rank == 0:
                partial.mkdir(parents=True, mode=0o700)
        except OSError as error:
            problem = f"{partial.parent}: cannot be written ({error.strerror})"
        sizes_and_problems = self._engine.gather((self._staged.size, problem))
        problem = problem or next((told for _, told in sizes_and_problems if told), None)
        self.num_bytes = sum(size for size, _ in sizes_and_problems)
        problem = problem or _no_room(self.store.path, self.num_bytes)
        # Ranks may stand on disks of their own.
        if found := [told for told in self._engine.gather(problem) if told]:
            shutil.rmtree(partial, ignore_errors=True)
            return str(found[0])
        manifest = self._manifest(progress, counters, held_out_loss)
        self._failure = None
        self._abandoned.clear()
        self._writer = threading.Thread(
            target=self._write, args=(partial, manifest), name="checkpoint writer", daemon=True
        )
        self._writer.start()
        return None

    @property
    def idle(self) -> bool:
        """Whether this rank writes nothing."""
        return self._writer is None or not self._writer.is_alive()

    @property
    def failure(self) -> str | None:
        """Why this rank's last writing failed; told once the ranks agree on it, then forgotten by the next `begin`."""
        return self._failure

    def abandon(self) -> None:
        """Give up what is being written: another rank could not write its part."""
        self._abandoned.set()
        if self._writer is not None:
            self._writer.join()
        self._failure = None

    def _manifest(self, progress: Progress, counters: dict[str, float], held_out_loss: float | None) -> Manifest:
        return Manifest(
            progress=progress,
            identity=self._identity,
            num_ranks=self._engine.world_size,
            strategy=self._plan.strategy.words,
            precision=self._plan.workload.precision_words,
            counters=counters,
            held_out_loss=held_out_loss,
            written=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=installed_versions(),
            files={},
        )

    def _write(self, partial: Path, manifest: Manifest) -> None:
        """In the background."""
        rank, size = self._engine.rank, self._staged.size
        try:
            entry = self._staged.write(partial / shard_name(rank))
            _put(partial / f"{shard_name(rank)}.json", entry.model_dump_json())
            if rank == 0:
                self._publish(partial, manifest)
        except (OSError, CheckpointError) as error:
            self._failure = _told(error, partial, size)
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)

    def _publish(self, partial: Path, manifest: Manifest) -> None:
        """Wait for all ranks' files, write the manifest, rename, and remove what is no longer kept."""
        files = dict(self._entries(partial, manifest.num_ranks))
        for source in (self._run.plan, self._run.recipe):
            shutil.copyfile(source, partial / source.name)
            sync(partial / source.name)
            files[source.name] = file_entry(partial / source.name)
        manifest = manifest.model_copy(update={"files": files})
        manifest.save(partial)
        sync(partial / "manifest.json")
        if self._abandoned.is_set():
            raise CheckpointError("another rank could not write its part")
        published = manifest.progress.step
        self.store.publish(partial, published)
        self.store.retain(kept_steps(self.store.manifests(), self._config, published=published))

    def _entries(self, partial: Path, num_ranks: int) -> dict[str, FileEntry]:
        waiting = {shard_name(rank) for rank in range(num_ranks)}
        entries: dict[str, FileEntry] = {}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while waiting:
            for name in sorted(waiting):
                note = partial / f"{name}.json"
                if note.exists():
                    entries[name] = FileEntry.parse(json.loads(note.read_text(encoding="utf-8")), source=str(note))
                    note.unlink()
                    waiting.remove(name)
            if self._abandoned.is_set():
                raise CheckpointError("another rank could not write its part")
            if time.monotonic() > deadline:
                raise CheckpointError(f"{partial}: {', '.join(sorted(waiting))} did not come in an hour")
            if waiting:
                time.sleep(_POLL_SECONDS)
        return entries


def rng_states(device: torch.device) -> dict[str, torch.Tensor]:
    """torch's random number generators of this rank: dropout draws from them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _put(path: Path, text: str) -> None:
    """A file that is whole as soon as it is there."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)


def _no_room(folder: Path, num_bytes: int) -> str | None:
    """Why a checkpoint of that size will not fit."""
    free = shutil.disk_usage(folder).free
    if num_bytes <= free:
        return None
    return (
        f"{folder}: a checkpoint takes {human_bytes(num_bytes)}, {human_bytes(free)} are free; "
        "free disk space, or save fewer with `checkpoint` in recipe.yaml"
    )


def _told(error: OSError | CheckpointError, partial: Path, size: int) -> str:
    """A failed writing in one sentence: where, how much was needed, how much is free."""
    if isinstance(error, CheckpointError):
        return str(error)
    free = human_bytes(shutil.disk_usage(partial.parent).free)
    return (
        f"{partial.parent}: the checkpoint could not be written ({error.strerror or error}): this rank's file takes "
        f"{human_bytes(size)}, {free} are free; free disk space"
    )
