"""The weights of a checkpoint on disk: what there is, checked against what is needed, and one tensor at a time."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open

from toolkit.errors import CheckpointError, SpecError
from toolkit.models.header import Described, read_header
from toolkit.models.pickled import checked_tensors, load_tensors
from toolkit.specs.model_source import weights_source
from toolkit.specs.reading import read_json
from toolkit.specs.trained import ENDS

_NAMES = ("model.safetensors", "pytorch_model.bin")
_CHUNK_BYTES = 16 * 1024**2
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096
_CONFIGS = ("config.json", "generation_config.json")
# A plain name: no folder, no `..`, nothing that looks like something else.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
                self._add(path)
        except OSError as error:
            raise CheckpointError(f"{name}: weights cannot be loaded ({first_line(error)}); fetch them again") from None

    def check(self, needed: Mapping[str, tuple[int, ...]], *, added_rows: int = 0) -> None:
        """Compare with what the model's config.json describes.

        Args:
            needed: shape of every tensor.
            added_rows: of embedding and head, that are not on disk.

        Raises:
            CheckpointError: tensors that are missing, too many, or of another shape.
        """
        needed = {
            name: (shape[0] - added_rows, *shape[1:]) if name in ENDS.values() else shape
            for name, shape in needed.items()
        }
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
        """A copy of one tensor, or of some of its rows, in CPU memory.

        Raises:
            CheckpointError: its file was damaged since it was looked at.
        """
        path, wanted = self._file_of[name], range(self.shapes[name][0]) if rows is None else rows
        if path.suffix == ".bin":
            return load_tensors(path)[name][wanted.start : wanted.stop].to(dtype, copy=True)
        tensor = torch.empty((len(wanted), *self.shapes[name][1:]), dtype=dtype)
        step = max(1, _CHUNK_BYTES // max(1, tensor[0].nbytes))
        try:
            for start in range(0, len(wanted), step):
                part = tensor[start : start + step]
                first = wanted.start + start
                # Open for these rows only: what stays mapped counts as this process's memory.
                with safe_open(path, framework="pt") as tensors:
                    part.copy_(tensors.get_slice(name)[first : first + len(part)])
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged ({first_line(error)}); fetch the file again") from None
        return tensor

    def where(self, name: str) -> str:
        """File and name of a tensor, for a message."""
        return f"{self._file_of[name]}: {name}"

    def _add(self, path: Path) -> None:
        """Note what a file holds."""
        if path.suffix == ".bin":
            found = {
                name: Described(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                for name, tensor in checked_tensors(path).items()
            }
        else:
            found = read_header(path)
        if twice := sorted(found.keys() & self.shapes.keys()):
            raise CheckpointError(
                f"{path}: holds {twice[0]}, and so does {self._file_of[twice[0]].name}; fetch the weights again"
            )
        self.shapes |= {name: tensor.shape for name, tensor in found.items()}
        self.dtypes |= {name: tensor.dtype for name, tensor in found.items()}
        self._file_of |= dict.fromkeys(found, path)


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
        return [_inside(folder, first)]
    index = folder / f"{first}.index.json"
    if not index.is_file():
        return []
    try:
        weight_map = read_json(index, remedy="fetch the file again").get("weight_map")
    except SpecError as error:
        raise CheckpointError(str(error)) from None
    kind = Path(first).suffix
    names = set()
    for name in weight_map.values() if isinstance(weight_map, dict) else [None]:
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or Path(name).suffix != kind:
            raise CheckpointError(
                f"{index}: `weight_map` has {str(name)[:80]!r}, needs names of {kind} files beside it; "
                "fetch the file again"
            )
        names.add(name)
    return [_inside(folder, name) for name in sorted(names)]


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder that no link leads out of."""
    home, file = folder.resolve(), (folder / name).resolve()
    # The hub's cache holds links: models--X/snapshots/<revision>/<name> to models--X/blobs/, from there to blobs/.
    blobs = [above / "blobs" for above in home.parents[1:3]] if home.parent.name == "snapshots" else []
    if not any(file.is_relative_to(root) for root in (home, *blobs)):
        raise CheckpointError(
            f"{folder / name}: is a link to {file}, outside of the model's folder; put the file itself there, or give "
            "the folder that it lies in"
        )
    return folder / name
