"""Weights written in either layout while they are read, tensor by tensor, from the other."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.errors import CheckpointError
from toolkit.models.meta_format import FREQUENCIES, HEAD, meta_name, rotary_heads, split_axis, to_pairs
from toolkit.models.probe import Weights
from toolkit.models.weights import first_line
from toolkit.specs.meta_params import MetaParams

# Hugging Face's own default.
_FILE_BYTES = 5 * 1024**3
_BLOCK_BYTES = 16 * 1024**2
_EMBEDDING = "model.embed_tokens.weight"
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class MetaLayout:
    """How a model is written for Meta's code."""

    params: MetaParams
    num_shards: int
    """Files."""
    by_rows: bool
    """How the embedding is divided: by rows as for Llama 3, or by columns as before it."""


def blocks(shape: tuple[int, ...], dtype: torch.dtype, *, head_dim: int) -> Iterator[range]:
    """Rows of a tensor, some 16 MiB at a time: of query and key only whole heads can be read."""
    row_bytes = _num_bytes(shape[1:], dtype.itemsize)
    step = max(1, _BLOCK_BYTES // (row_bytes * head_dim)) * head_dim
    for start in range(0, shape[0], step):
        yield range(start, min(start + step, shape[0]))


def write_safetensors(folder: Path, weights: Weights, shapes: Shapes, *, dtype: torch.dtype, head_dim: int) -> None:
    """Write files of at most 5 GiB and, for more than one, their index; a block at a time is in memory.

    The safetensors library writes only what is in memory whole. The format: 8 bytes that say how long the header is,
    the header as JSON, the tensors' bytes in its order (https://github.com/huggingface/safetensors#format).

    Args:
        folder: exists.
        weights: to be written.
        shapes: of these tensors, by name.
        dtype: of what is written.
        head_dim: of the model.
    """
    groups = list(_groups(shapes, dtype.itemsize))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        several = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        weight_map |= dict.fromkeys(names, f"model{several}.safetensors")
        with (folder / weight_map[names[0]]).open("wb") as file:
            file.write(_header({name: shapes[name] for name in names}, dtype))
            for name in names:
                for rows in blocks(shapes[name], dtype, head_dim=head_dim):
                    file.write(weights.read(name, dtype, rows=rows).view(torch.uint8).numpy().data)
    if len(groups) > 1:
        total = sum(_num_bytes(shape, dtype.itemsize) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_shards(folder: Path, weights: Weights, shapes: Shapes, *, layout: MetaLayout, dtype: torch.dtype) -> None:
    """Write params.json and consolidated.NN.pth; one of these files at a time is in memory.

    Args:
        folder: exists.
        weights: to be written.
        shapes: of these tensors, by their names in transformers.
        layout: how.
        dtype: of what is written.

    Raises:
        CheckpointError: the disk is full.
    """
    (folder / "params.json").write_text(json.dumps(layout.params.content()) + "\n", encoding="utf-8")
    for number in range(layout.num_shards):
        # No name holds it: the next one is made when this one is gone.
        _save(_shard(weights, shapes, number, layout=layout, dtype=dtype), folder / f"consolidated.{number:02d}.pth")


def _shard(
    weights: Weights, shapes: Shapes, number: int, *, layout: MetaLayout, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """What one of Meta's files holds."""
    params, shard = layout.params, {}
    # Meta's code knows no tied head: the embedding is written a second time.
    named = {meta_name(name): name for name in shapes}
    named.setdefault(HEAD, _EMBEDDING)
    for name, theirs in named.items():
        axis, shape, heads = split_axis(name, by_rows=layout.by_rows), shapes[theirs], rotary_heads(name, params)
        rows = _part(shape[0], number, layout.num_shards if axis == 0 else 1)
        shard[name] = weights.read(theirs, dtype, rows=rows)
        if axis == 1:
            columns = _part(shape[1], number, layout.num_shards)
            # Saving a view would save all that it is a view of.
            shard[name] = shard[name][:, columns.start : columns.stop].clone()
        if heads:
            shard[name] = to_pairs(shard[name], heads // layout.num_shards)
    if not layout.by_rows and not params.use_scaled_rope:
        # The files of that time hold them, and some of their readers ask for them.
        powers = torch.arange(0, params.head_dim, 2).float() / params.head_dim
        shard[FREQUENCIES] = (1.0 / params.rope_theta**powers).to(dtype)
    return shard


def _save(shard: dict[str, torch.Tensor], path: Path) -> None:
    try:
        torch.save(shard, path)
    except RuntimeError as error:  # torch's writer knows no OSError
        raise CheckpointError(
            f"{path}: cannot be written ({first_line(error)}); free disk space or give another folder"
        ) from None


def _part(size: int, number: int, count: int) -> range:
    """One of `count` equal parts; all of it where nothing is divided."""
    return range(number * size // count, (number + 1) * size // count) if count > 1 else range(size)


def _groups(shapes: Shapes, itemsize: int) -> Iterator[list[str]]:
    """Names of the tensors of each file."""
    group: list[str] = []
    for name in shapes:
        if group and sum(_num_bytes(shapes[one], itemsize) for one in (*group, name)) > _FILE_BYTES:
            yield group
            group = []
        group.append(name)
    yield group


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + _num_bytes(shape, dtype.itemsize)
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header).encode()
    # Filled up with spaces, so that the tensors begin where memory can be mapped as numbers.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _num_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    return math.prod(shape) * itemsize
