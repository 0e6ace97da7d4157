"""pytorch_model.bin, which is a pickle: a program that makes tensors. It is read as what `torch.save` writes, or not.

torch's restricted reader (weights_only) runs nothing foreign and is the gate. What it builds on request (a bytearray of
any length, say) can still take all memory, so the archive is looked at before: nothing packed, and no names but those
that plain tensors need.
"""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import CheckpointError

# Before it a file could corrupt the restricted reader's memory (CVE-2026-24747), and before 2.6 run code.
_SAFE_TORCH = (2, 10)
_MAX_PROGRAM_BYTES = 10 * 1024**2
_NEEDED_NAMES = {"collections OrderedDict", "torch._utils _rebuild_parameter", "torch._utils _rebuild_tensor_v2"} | {
    f"{place} {kind}Storage" for place in ("torch", "torch.cuda") for kind in ("BFloat16", "Double", "Float", "Half")
}
# What torch raises on programs that do not make sense to it; 10,000 damaged files raised nothing else.
_FAILURES = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def checked_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file that nobody has looked at yet, mapped: what is not used is not read.

    Raises:
        CheckpointError: torch is too old to read it safely, the file holds anything but tensors, or it is damaged.
    """
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < _SAFE_TORCH:
        needed = ".".join(map(str, _SAFE_TORCH))
        raise CheckpointError(
            f"{path}: is a pickle, which torch {torch.__version__} does not read safely; install torch {needed} or "
            "newer, or give the model as safetensors"
        )
    try:
        _check_archive(path)
        tensors = load_tensors(path)
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, path.stat().st_size)
    except _FAILURES as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: weights cannot be loaded ({first}); give the model as safetensors") from None
    return tensors


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file that was checked before."""
    content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, needs tensors by name")
    return content


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{packed[0]} in it is packed, which torch.save never does")
        programs = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(programs) != 1 or programs[0].file_size > _MAX_PROGRAM_BYTES:
            raise ValueError("it is no archive of torch.save")
        program = archive.read(programs[0])
    for operation, argument, _ in pickletools.genops(program):
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in _NEEDED_NAMES:
            raise ValueError(f"it asks for `{argument or 'a computed name'}`, which no tensor needs")


def _check_tensor(name: object, tensor: object, size: int) -> None:
    if not isinstance(name, str) or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise ValueError(f"{name!r} is a {type(tensor).__name__}, needs tensors by name")
    assert isinstance(tensor, torch.Tensor)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
        raise ValueError(f"{name} is no plain tensor of floating-point numbers")
    if tensor.nbytes > size:
        # Strides of 0 let a few bytes stand for any number of values.
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} needs more bytes than the file has")
