"""The files that `toolkit plan` wrote, sent to hosts without this disk and kept while a smaller plan runs; and what the
recipe says that a run reads."""

import os
import shutil
import socket
from collections.abc import Mapping

from toolkit.errors import ConfigError, DataError
from toolkit.run_folder import RunFolder
from toolkit.specs.far import is_url
from toolkit.specs.recipe import Recipe
from toolkit.staging import missing_inputs


def _names(run: RunFolder) -> list[str]:
    """Of the files, the plan, which marks a run, last."""
    files = (run.recipe, run.accelerate, run.ds_config, run.megatron_args, run.script, run.plan)
    return [path.name for path in files]


def read_inputs(run: RunFolder) -> dict[str, str]:
    """Texts by name."""
    return {name: path.read_text(encoding="utf-8") for name in _names(run) if (path := run.path / name).is_file()}


def put_inputs(run: RunFolder, inputs: Mapping[str, str]) -> None:
    """Make the folder hold these files, and none of another engine's; on a shared disk it does already.

    Raises:
        ConfigError: the folder cannot be written, or a name is none of a run's.
    """
    names = _names(run)
    if strange := set(inputs) - set(names):
        raise ConfigError(f"{', '.join(sorted(strange))}: no input of a run; use the same release on all hosts")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        for name in names:
            _put(run, name, inputs.get(name))
    except OSError as error:
        raise ConfigError(
            f"{socket.gethostname()}: {run.path} cannot be written there ({error.strerror}); use a folder that all "
            "hosts can write"
        ) from None


def require_what_is_read(run: RunFolder) -> None:
    """Before any rank of this host looks for them, which would not say where it is.

    Raises:
        DataError: model or data are files that this host does not have; what is behind a URL its ranks fetch.
    """
    missing = [name for name in missing_inputs(Recipe.load(run.recipe)) if not is_url(name)]
    if missing:
        raise DataError(
            f"{socket.gethostname()}: not on this host: {', '.join(missing)}; copy them there to the same place, or "
            f"give URLs that all hosts can read in {run.recipe}"
        )


def _put(run: RunFolder, name: str, text: str | None) -> None:
    path = run.path / name
    if text is None:
        path.unlink(missing_ok=True)
        return
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    draft = path.with_name(f".{name}.{os.getpid()}.partial")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o755 if path == run.script else 0o644)
    draft.replace(path)


def keep_planned(run: RunFolder) -> None:
    """Before a plan for fewer nodes takes their place: the files as they are, for when all nodes are there again."""
    kept = RunFolder(run.planned)
    if not kept.plan.exists():
        put_inputs(kept, read_inputs(run))


def restore_planned(run: RunFolder) -> None:
    """The files that `keep_planned` has kept, by this launch or by one that was killed."""
    kept = RunFolder(run.planned)
    if kept.plan.exists():
        put_inputs(run, read_inputs(kept))
        shutil.rmtree(kept.path)
