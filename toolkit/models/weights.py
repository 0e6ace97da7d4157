"""The weights of a checkpoint on disk: what there is, checked against what is needed, and one tensor at a time."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open

from toolkit.errors import CheckpointError
from toolkit.specs.model_source import weights_source

# The last three come from a damaged pytorch_model.bin, which is a pickle.
_READ_FAILURES = (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)
_NAMES = ("model.safetensors", "pytorch_model.bin")
_CHUNK_BYTES = 16 * 1024**2
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096
_CONFIGS = ("config.json", "generation_config.json")


class WeightFiles:
    """Every tensor of a checkpoint by name; nothing stays in memory, or mapped into it, between two reads.

    Args:
        name: folder, hub id or catalog name.

    Raises:
        CheckpointError: no weights, or damaged ones.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of every tensor."""
        try:
            for path in _files(_folder(name)):
                self.shapes |= self._add(path)
        except _READ_FAILURES as error:
            raise CheckpointError(f"{name}: weights cannot be loaded ({first_line(error)}); fetch them again") from None

    def check(self, needed: Mapping[str, tuple[int, ...]]) -> None:
        """Compare with what the model's config.json describes.

        Raises:
            CheckpointError: tensors that are missing, too many, or of another shape.
        """
        # Old checkpoints hold what is computed from the config today, and tied models their head a second time.
        computed = {name for name in self.shapes if name.endswith("rotary_emb.inv_freq")} | {"lm_head.weight"}
        mismatched = [
            f"{name} is {self.shapes[name]}, needs {shape}"
            for name, shape in sorted(needed.items())
            if self.shapes.get(name, shape) != shape
        ]
        found = {
            "missing keys": sorted(needed.keys() - self.shapes.keys()),
            "mismatched keys": mismatched,
            "unexpected keys": sorted(self.shapes.keys() - needed.keys() - computed),
        }
        for kind, keys in found.items():
            if keys:
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                raise CheckpointError(
                    f"{self._name}: {kind} in its weights: {keys[0]}{more}; "
                    "config.json and the weights are not of the same model"
                )

    def fingerprint(self) -> str:
        """Tells these weights from others without reading all of them: names, shapes, sizes, samples of each file."""
        digest = hashlib.sha256(json.dumps(sorted(self.shapes.items())).encode())
        for path in sorted(set(self._file_of.values())):
            size = path.stat().st_size
            with path.open("rb") as file:
                for place in range(_NUM_SAMPLES):
                    file.seek(place * size // _NUM_SAMPLES)
                    digest.update(file.read(_SAMPLE_BYTES))
            digest.update(str(size).encode())
        return digest.hexdigest()[:16]

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A copy of one tensor in CPU memory."""
        path = self._file_of[name]
        if path.suffix == ".bin":
            pickled: torch.Tensor = _unpickled(path)[name]
            return pickled.to(dtype, copy=True)
        tensor = torch.empty(self.shapes[name], dtype=dtype)
        step = max(1, _CHUNK_BYTES // max(1, tensor[0].nbytes))
        for start in range(0, tensor.shape[0], step):
            # Open for these rows only: what stays mapped counts as this process's memory.
            with safe_open(path, framework="pt") as tensors:
                tensor[start : start + step] = tensors.get_slice(name)[start : start + step]
        return tensor

    def _add(self, path: Path) -> dict[str, tuple[int, ...]]:
        """Shapes of a file's tensors."""
        if path.suffix == ".bin":
            shapes = {name: tuple(tensor.shape) for name, tensor in _unpickled(path).items()}
        else:
            try:
                with safe_open(path, framework="pt") as tensors:
                    names = tensors.keys()
                    shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: damaged ({first_line(error)}); fetch the file again") from None
        self._file_of |= dict.fromkeys(shapes, path)
        return shapes


def first_line(error: BaseException) -> str:
    """Type and first line of an error, for a message of our own."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__


def _folder(name: str) -> Path:
    """Where the weights lie on this disk; a hub repository is downloaded, once."""
    source = weights_source(name)
    if Path(source).is_dir():
        return Path(source)
    try:
        for first in _NAMES:
            stem, kind = first.split(".")
            patterns = [*_CONFIGS, f"{stem}*.{kind}", f"{first}.index.json"]
            folder = Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))
            if _listed(folder, first):
                return folder
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{name}: weights cannot be downloaded ({first_line(error)}); check the name") from None
    return folder


def _files(folder: Path) -> list[Path]:
    """The files that hold the model, safetensors before pickles."""
    for first in _NAMES:
        if found := _listed(folder, first):
            return found
    raise FileNotFoundError(f"{folder} holds neither {_NAMES[0]} nor {_NAMES[1]}, nor an index of several")


def _listed(folder: Path, first: str) -> list[Path]:
    """The one file of that name, or those that its index names."""
    if (folder / first).is_file():
        return [folder / first]
    index = folder / f"{first}.index.json"
    if not index.is_file():
        return []
    return [folder / file for file in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]


def _unpickled(path: Path) -> dict[str, Any]:
    """The tensors of a .bin file, mapped: what is not used is not read."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return content
