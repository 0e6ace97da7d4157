"""A folder that appears whole or not at all: filled beside its place, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from toolkit.errors import CheckpointError


@contextmanager
def published(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill in the place of `target`, which appears when the block ends; nothing stays of one that fails.

    Args:
        target: folder to make.
        replace: remove one that is there, when the new one is whole.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    partial, replaced = (target.with_name(f".{target.name}.{state}") for state in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if partial.is_symlink():
            partial.unlink()  # rmtree leaves links alone, and mkdir never follows one
        partial.mkdir(parents=True)
        yield partial
        mode = next(partial.glob("*.json")).stat().st_mode
        for path in partial.glob("*.safetensors"):
            path.chmod(mode)  # safetensors leaves them readable by the owner only
        if replace and target.exists():
            target.rename(replaced)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target}: cannot be written ({error}); free disk space or give another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():  # else the old one is all there is
            shutil.rmtree(replaced, ignore_errors=True)
