"""What was written, read back and compared with what must be there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from toolkit.errors import CheckpointError


def check_export(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the weights on disk with the names and shapes that the model, or its adapters, must have.

    Raises:
        CheckpointError: a missing, unexpected, empty, misshapen or non-finite tensor, by name; all of them at once.
    """
    seen: dict[str, tuple[int, ...]] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                tensor = tensors.get_tensor(name)
                seen[name] = tuple(tensor.shape)
                if not bool(torch.isfinite(tensor).all()):
                    faults.append(f"{name} holds NaN or Inf")
    faults += [f"{name} is missing" for name in sorted(expected.keys() - seen.keys())]
    faults += [f"{name} is not part of the model" for name in sorted(seen.keys() - expected.keys())]
    faults += [
        f"{name} has shape {seen[name]}, needs {expected[name]}"
        for name in sorted(seen.keys() & expected.keys())
        if seen[name] != expected[name]
    ]
    if faults:
        raise damaged(folder, faults)


def damaged(folder: Path, faults: Sequence[str]) -> CheckpointError:
    """The error that tells the first faults of an export."""
    more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
    return CheckpointError(f"{folder}: damaged export: {'; '.join(faults[:5])}{more}; train or export again")
