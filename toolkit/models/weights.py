"""The weights of a checkpoint on disk: what there is, checked against what is needed, and one tensor at a time."""

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open

from toolkit.errors import CheckpointError
from toolkit.specs.model_source import weights_source

_READ_FAILURES = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
# What torch's unpickler raises over bytes that are no pickle of its own.
_PICKLE_FAILURES = (OSError, ValueError, RuntimeError, LookupError, EOFError, TypeError, AttributeError, struct.error)
_NAMES = ("model.safetensors", "pytorch_model.bin")
_CHUNK_BYTES = 16 * 1024**2
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096
_CONFIGS = ("config.json", "generation_config.json")
_SAFE_UNPICKLING = "2.10"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


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
        self.dtypes: dict[str, str] = {}
        """Of every tensor, as `bfloat16`."""
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

    def read(self, name: str, dtype: torch.dtype, *, rows: range | None = None) -> torch.Tensor:
        """A copy of one tensor, or of some of its rows, in CPU memory."""
        path, wanted = self._file_of[name], range(self.shapes[name][0]) if rows is None else rows
        if path.suffix == ".bin":
            pickled: torch.Tensor = unpickled(path)[name]
            return pickled[wanted.start : wanted.stop].to(dtype, copy=True)
        tensor = torch.empty((len(wanted), *self.shapes[name][1:]), dtype=dtype)
        step = max(1, _CHUNK_BYTES // max(1, tensor[0].nbytes))
        for start in range(0, len(wanted), step):
            part = tensor[start : start + step]
            first = wanted.start + start
            # Open for these rows only: what stays mapped counts as this process's memory.
            with safe_open(path, framework="pt") as tensors:
                part.copy_(tensors.get_slice(name)[first : first + len(part)])
        return tensor

    def where(self, name: str) -> str:
        """File and name of a tensor, for a message."""
        return f"{self._file_of[name]}: {name}"

    def _add(self, path: Path) -> dict[str, tuple[int, ...]]:
        """Shapes of a file's tensors."""
        if path.suffix == ".bin":
            content = unpickled(path)
            shapes = {name: tuple(tensor.shape) for name, tensor in content.items()}
            self.dtypes |= {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in content.items()}
        else:
            try:
                with safe_open(path, framework="pt") as tensors:
                    slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (no mapping)
                    shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
                    codes = {name: tensor.get_dtype() for name, tensor in slices.items()}
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: damaged ({first_line(error)}); fetch the file again") from None
            self.dtypes |= {name: _DTYPES.get(code, code) for name, code in codes.items()}
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


def unpickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin or .pth file, mapped: what is not used is not read. Code in it is never run.

    Raises:
        CheckpointError: the file is damaged or holds more than tensors, or this torch is too old to look.
    """
    if torch.__version__ < torch.torch_version.TorchVersion(_SAFE_UNPICKLING):
        # Before it a crafted file could corrupt memory even so (CVE-2026-24747).
        raise CheckpointError(
            f"{path}: a pickle, which torch {torch.__version__} cannot read safely; install torch {_SAFE_UNPICKLING} "
            "or newer, or use safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text says how to load it all the same.
        found = re.search(r"GLOBAL (\S+)|module (\S+) is blocked", str(error))
        what = f" ({found[1] or found[2]})" if found else ""
        raise CheckpointError(
            f"{path}: refused: no pickle of tensors alone{what}; nothing of it was run, get the weights from their "
            "source or as safetensors"
        ) from None
    except _PICKLE_FAILURES as error:
        raise CheckpointError(f"{path}: damaged ({first_line(error)}); fetch the file again") from None
    if not isinstance(content, dict) or not all(isinstance(one, torch.Tensor) for one in content.values()):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, needs tensors by name; get the weights again")
    return content
