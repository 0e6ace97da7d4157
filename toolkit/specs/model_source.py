"""Where a model's config.json is: a folder, a file, the catalog, the local Hugging Face cache or the hub."""

import difflib
import functools
import importlib
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import SpecError
from toolkit.specs.base import read_catalog
from toolkit.specs.reading import read_json


def is_at_hand(name: str) -> bool:
    """Whether `find_config` needs no network for it: a path that exists, or a catalog name."""
    return _existing(name) is not None or name.lower() in _catalog()


def find_config(name: str | Path) -> tuple[Mapping[str, Any], str]:
    """The content of a model's config.json and where it was found.

    Args:
        name: what exists on disk, or looks like a path, is a path; then come catalog names; `org/name` is a hub id.

    Raises:
        SpecError: nothing of that name, or the file cannot be read.
    """
    if not isinstance(name, str | Path):
        raise SpecError(f"the model is {name!r}, needs a folder, config.json, catalog name or hub id")
    text, path = str(name), _existing(name)
    known = _catalog().get(text.lower())
    # A folder without config.json that has a catalog name is most often a run's own output: the catalog wins.
    if path and not (known and path.is_dir() and not (path / "config.json").is_file()):
        file = _config_file(path)
        return _read(file), str(file)
    if known:
        return known, text
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) and not text.endswith(".json") and isinstance(name, str):
        file = _from_hub(text)
        return _read(file), str(file)
    if isinstance(name, Path) or "/" in text or text.startswith((".", "~")) or text.endswith(".json"):
        raise SpecError(f"{text}: no such file or folder; give a model folder, its config.json or a catalog name")
    raise SpecError(f"{text or 'an empty name'}: neither a folder nor in the catalog; {_nearest(text)}")


def weights_source(name: str) -> str:
    """What transformers loads the weights of `name` from: a folder, or a hub id (a catalog name becomes its own)."""
    path = _existing(name)
    if path and (path.is_file() or (path / "config.json").is_file()):
        return str(path.parent if path.is_file() else path)
    return next((entry["hub_ids"][0] for entry in _entries() if name.lower() in _names(entry)), name)


def own_config(name: str) -> tuple[dict[str, Any], str]:
    """config.json as it lies beside the weights of `name`, and where: what the catalog knows is for planning only.

    Raises:
        SpecError: no such file, or one that cannot be read.
    """
    source = weights_source(name)
    file = Path(source, "config.json") if Path(source).is_dir() else _from_hub(source)
    return _read(file), str(file)


def _existing(name: str | Path) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if str(name) and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # Too long, ~unknown_user, a NUL: no file has such a name.
        return None


def _config_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix != ".json":
            raise SpecError(f"{path}: not a config.json; give that file or the folder that holds it")
        return path
    if (path / "config.json").is_file():
        return path / "config.json"
    if (path / "params.json").is_file():
        raise SpecError(
            f"{path}: holds Meta's layout, needs config.json; write a Hugging Face folder with `toolkit convert {path} "
            "FOLDER` and give that"
        )
    if (path / "adapter_config.json").is_file():
        raise SpecError(f"{path}: holds an adapter, needs config.json; give the folder of its base model")
    raise SpecError(f"{path}: holds no config.json; give the folder of a Hugging Face model")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, remedy="get the file again")


def _from_hub(repo_id: str) -> Path:
    """config.json of a hub repository: from the local cache, else downloaded."""
    advice = "copy its config.json into a folder and give that folder"
    try:
        hub = importlib.import_module("huggingface_hub")  # Not needed for anything else on a desk.
    except ImportError:
        raise SpecError(f"{repo_id}: not in the catalog; install huggingface_hub to fetch it, or {advice}") from None
    try:
        if isinstance(cached := hub.try_to_load_from_cache(repo_id, "config.json"), str):
            return Path(cached)
        if not urllib.request.getproxies():
            # Without this look-up an offline machine waits half a minute for the library's retries.
            socket.getaddrinfo(urllib.parse.urlsplit(hub.constants.ENDPOINT).hostname, 443)
        return Path(hub.hf_hub_download(repo_id, "config.json"))
    except hub.errors.GatedRepoError:
        reason = f"asks for a licence; accept it on its page and log in with `hf auth login`, or {advice}"
    except hub.errors.RepositoryNotFoundError:
        reason = f"not on the hub, or private; {_nearest(repo_id)}"
    except hub.errors.HFValidationError:
        reason = "not a valid hub id; write organisation/name"
    except OSError:
        reason = f"not in the local cache, and its config.json cannot be downloaded; {advice}, or {_nearest(repo_id)}"
    raise SpecError(f"{repo_id}: {reason}")


def _nearest(text: str) -> str:
    close = difflib.get_close_matches(text.lower(), _catalog(), n=3, cutoff=0.5)
    known = f"one of the nearest names {', '.join(close)}" if close else "a catalog name such as llama-3.1-8b"
    return f"give {known}, a folder with config.json or a hub id"


@functools.cache
def _catalog() -> dict[str, Mapping[str, Any]]:
    """Every known name in lower case -> the keys of its config.json."""
    return {name: entry["config"] for entry in _entries() for name in _names(entry)}


@functools.cache
def _entries() -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = read_catalog(Path(__file__).with_name("catalog") / "models.yaml")["models"]
    return models


def _names(entry: Mapping[str, Any]) -> set[str]:
    short = [hub_id.split("/")[1] for hub_id in entry["hub_ids"]]
    return {name.lower() for name in (entry["name"], *entry["aliases"], *entry["hub_ids"], *short)}
