"""What a safetensors file says it holds, checked against its size before anything is mapped or allocated.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length of the header, the header as a
JSON object of `name: {dtype, shape, data_offsets}`, then the data, which the offsets cover without gap or overlap.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import CheckpointError
from toolkit.specs.reading import parse_json

MAX_HEADER_BYTES = 10 * 1024**2
"""The format allows 100 MB; the whole of a 405B model's 1138 tensors takes 0.2 MB."""
_LENGTH_BYTES = 8
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_DIMENSIONS = 8


class Described(NamedTuple):
    """A tensor on disk."""

    shape: tuple[int, ...]
    """Its sizes."""
    dtype: str
    """As torch calls it: `bfloat16`."""


def read_header(path: Path) -> dict[str, Described]:
    """Each tensor of a safetensors file.

    Raises:
        CheckpointError: the file is not of that format, or not of the size that its header describes.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size - _LENGTH_BYTES
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size, MAX_HEADER_BYTES):
                raise ValueError(f"a header of {length:,} bytes in a file of {size + _LENGTH_BYTES:,}")
            header = parse_json(file.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}, not an object")
        header.pop("__metadata__", None)
        tensors = {name: _tensor(name, entry) for name, entry in header.items()}
        _check_coverage({name: place for name, (_, place) in tensors.items()}, size - length)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); fetch the file again") from None
    return {name: described for name, (described, _) in tensors.items()}


def _tensor(name: str, entry: Any) -> tuple[Described, tuple[int, int]]:
    """One tensor and its place."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} has not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"{name} is {dtype!r}, not one of {', '.join(_ITEM_BYTES)}")
    if not _are_counts(shape, range(1, _MAX_DIMENSIONS + 1)) or 0 in shape:
        raise ValueError(f"{name} has no usable shape")
    if not _are_counts(offsets, range(2, 3)) or offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{name} of shape {shape} does not fill its data_offsets")
    return Described(tuple(shape), _DTYPES[dtype]), (offsets[0], offsets[1])


def _are_counts(values: Any, lengths: range) -> bool:
    # In Python True is an int.
    return isinstance(values, list) and len(values) in lengths and all(type(one) is int and one >= 0 for one in values)


def _check_coverage(places: dict[str, tuple[int, int]], size: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    at = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at:
            raise ValueError(f"{name} begins at {begin:,} where the data before it ends at {at:,}")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at:,} bytes, the file has {size:,} for them")
