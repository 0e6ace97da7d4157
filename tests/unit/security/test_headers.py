"""S10: a safetensors header is believed only as far as the file bears it out."""

import json
import os
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import CheckpointError
from toolkit.models.weights import WeightFiles

TRIALS = 10_000
WORDS = ["dtype", "shape", "data_offsets", "F32", "F16", "BF16", "F8_E4M3", "I64", "__metadata__", "w", ""]
NUMBERS = [0, 1, -1, 2, 3, 8, 255, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**12, 10**30]
ODD = [None, True, 1.5, 1e400, float("nan"), "", "w", [], {}, [[]], [0], [-1], [10**12], [1, 2, 3]]


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "x": torch.ones(5, dtype=torch.bfloat16), "y": torch.ones(1, 4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tensors


def write(folder: Path, header: Any, data: bytes, *, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + data)


def parts(folder: Path) -> tuple[dict[str, Any], bytes]:
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def mutated(rng: random.Random, header: dict[str, Any], data: bytes) -> tuple[bytes, bytes, int | None]:
    """The header with one to three changes, as values or as bytes; the data; a length that is not the header's."""
    changed: dict[str, Any] = json.loads(json.dumps(header))
    length = None
    text = b""
    for _ in range(rng.choice([1, 1, 2, 3])):
        entry = changed.get(rng.choice(list(changed) or [""]))
        key = rng.choice(["dtype", "shape", "data_offsets"])
        match rng.randrange(8):
            case 0 if isinstance(entry, dict):
                entry[key] = rng.choice([*ODD, *NUMBERS, *WORDS])
            case 1 if isinstance(entry, dict) and isinstance(entry.get(key), list) and entry[key]:
                entry[key][rng.randrange(len(entry[key]))] = rng.choice([*NUMBERS, *ODD])
            case 2 if isinstance(entry, dict):
                entry.pop(key, None)
            case 3:
                changed[rng.choice(WORDS)] = rng.choice([entry, *ODD])
            case 4:
                data = rng.choice([b"", data[:-1], data + b"\0", data[: rng.randrange(len(data) + 1)]])
            case 5:
                length = rng.choice([*NUMBERS[1:2], *NUMBERS[3:13], rng.randrange(1, 1 << 64)]) % (1 << 64)
            case 6 if changed:
                changed.pop(rng.choice(list(changed)))
            case _:
                raw = bytearray(text or json.dumps(changed).encode())
                raw[rng.randrange(len(raw))] = rng.choice(b'{}[],:"0919eE+-. \0\xff\n\\x')
                text = bytes(raw)
    return text or json.dumps(changed).encode(), data, length


def outcome(folder: Path) -> str:
    """Read everything; why it was refused, or nothing."""
    try:
        files = WeightFiles(str(folder))
        assert all(files.read(name, torch.float32).shape == shape for name, shape in files.shapes.items())
    except CheckpointError as error:
        return str(error)
    return ""


def test_mutated_headers_are_refused_or_read_rightly(
    weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, data = parts(tmp_path)
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    real, largest = torch.empty, 0

    def watched(*shape: Any, **options: Any) -> torch.Tensor:
        nonlocal largest
        made = real(*shape, **options)
        largest = max(largest, made.nbytes)
        return made

    monkeypatch.setattr(torch, "empty", watched)
    for _ in range(TRIALS):
        text, rest, length = mutated(rng, header, data)
        write(tmp_path, text, rest, length=length)
        size = (tmp_path / "model.safetensors").stat().st_size
        said = outcome(tmp_path)
        assert said == "" or ("model.safetensors: damaged (" in said and len(said) < 1000)
        seen["refused" if said else "read"] += 1
        assert largest <= 2 * size, "bf16 in the file is fp32 in memory"
    assert seen["refused"] > 0.8 * TRIALS
    assert seen["read"] > 0.005 * TRIALS, "changes that change nothing are read"
    # What was mended is read as it was.
    write(tmp_path, header, data)
    assert all(torch.equal(WeightFiles(str(tmp_path)).read(name, t.dtype), t) for name, t in weights.items())


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}}', "key `w` is given twice"),
        ({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, "its tensors take 4,000,000,000"),
        ({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, "does not fill its data_offsets"),
        ({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}, "does not fill its data_offsets"),
        ({"w": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}}, "w has no usable shape"),
        ({"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, "w has no usable shape"),
        ({"w": {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]}}, "w has no usable shape"),
        ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "w has no usable shape"),
        ({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, "w is 'U8', not one of F64, F32, F16, BF16"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "w begins at 4 where the data before it"),
        (
            {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("w", "x")},
            "x begins at 0 where the data before it ends at 4",
        ),
        ({}, "its tensors take 0 bytes, the file has 4 for them"),
        ([], "its header is a list, not an object"),
        (b"[" * 100_000, "maximum recursion depth"),
        (b"\xff\xfe", "can't decode byte 0xff"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: Any, words: str) -> None:
    write(tmp_path, header, b"\0\0\0\0")
    with pytest.raises(CheckpointError) as caught:
        WeightFiles(str(tmp_path))
    assert words in str(caught.value)
    assert str(caught.value).endswith("; fetch the file again")


@pytest.mark.parametrize("length", [0, 1 << 30, 1 << 62, (1 << 64) - 1])
def test_a_header_of_impossible_length(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" * 100)
    with pytest.raises(CheckpointError, match="a header of "):
        WeightFiles(str(tmp_path))


def test_the_same_tensor_in_two_files(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    save_file({"w": torch.zeros(2, 3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"w": "one.safetensors", "x": "one.safetensors", "z": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"two\.safetensors: holds w, and so does one\.safetensors"):
        WeightFiles(str(tmp_path))


def test_a_file_that_shrinks_after_it_was_looked_at(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    files = WeightFiles(str(tmp_path))
    os.truncate(tmp_path / "model.safetensors", 100)
    with pytest.raises(CheckpointError, match="damaged"):
        files.read("w", torch.float32)


def test_memory_stays_small_whatever_the_header_says(tmp_path: Path, in_little_memory: Callable[..., str]) -> None:
    # 100 MB of header in a file without holes, and 10^12 numbers in 4 bytes: both in 200 MB of address space.
    huge = b'{"w":{"dtype":"F32","shape":[' + b"1," * 50_000_000 + b'1],"data_offsets":[0,4]}}'
    code = """
import sys
from pathlib import Path
from toolkit.errors import CheckpointError
from toolkit.models.header import read_header
try:
    read_header(Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
"""
    for header, words in (
        (huge, "a header of 100,000,0"),
        ({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, "its tensors take 4,000,000,000"),
    ):
        write(tmp_path, header, b"\0\0\0\0")
        assert words in in_little_memory(code, tmp_path / "model.safetensors", max_bytes=200 << 20)


def test_what_is_read_is_what_was_written(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    files, found = WeightFiles(str(tmp_path)), load_file(tmp_path / "model.safetensors")
    assert files.shapes == {name: tuple(tensor.shape) for name, tensor in found.items()}
