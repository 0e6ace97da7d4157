"""Meta's layout of a LLaMA: params.json and consolidated.NN.pth, where each file holds a part of every matrix.

Source: meta-llama/llama `model.py` (fairscale's parallel layers; the embedding divided by columns) and
meta-llama/llama-models `models/llama3/model.py` (the embedding divided by rows).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.errors import CheckpointError
from toolkit.models.pickled import checked_tensors
from toolkit.specs.meta_params import MetaParams

EMBEDDING, HEAD, LAST_NORM = "tok_embeddings.weight", "output.weight", "norm.weight"
FREQUENCIES = "rope.freqs"
"""What old files hold beside the weights; computed from params.json by all who use them."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_OUTER = {"model.embed_tokens.weight": EMBEDDING, "model.norm.weight": LAST_NORM, "lm_head.weight": HEAD}
_INNER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_COMPARED_ROWS = 4096


def meta_name(name: str) -> str:
    """Meta's name of a tensor, by its name in transformers."""
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, inner = name.split(".", 3)
    return f"layers.{layer}.{_INNER[inner.removesuffix('.weight')]}.weight"


def split_axis(name: str, *, by_rows: bool) -> int | None:
    """Axis along which the files divide a tensor of Meta's; None: each has all of it.

    Args:
        name: Meta's.
        by_rows: how the embedding is divided.
    """
    if name == EMBEDDING:
        return 0 if by_rows else 1
    if name.endswith("norm.weight"):
        return None
    return 1 if name.endswith(("wo.weight", "w2.weight")) else 0


def rotary_heads(name: str, params: MetaParams) -> int | None:
    """Heads of a tensor whose rows come in pairs in Meta's layout and in halves in transformers; None: it has neither.

    Rotary embeddings turn rows (0, 1), (2, 3), ... of a head in the one and (0, half), (1, half + 1), ... in the other.
    """
    if name.endswith("attention.wq.weight"):
        return params.n_heads
    return params.num_kv_heads if name.endswith("attention.wk.weight") else None


def to_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from Meta's order into that of transformers."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def to_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from the order of transformers into Meta's."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def divided_sizes(params: MetaParams, *, vocab_size: int) -> dict[str, int]:
    """What the number of files must divide, by its name in a message."""
    return {
        "heads": params.n_heads,
        "key-value heads": params.num_kv_heads,
        "columns inside the MLP": params.inner_size,
        "rows of the vocabulary": vocab_size,
    }


@dataclass(frozen=True)
class _Part:
    """What one file holds."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]


class MetaFiles:
    """The tensors of a folder in Meta's layout, whole, by Meta's names; at most one layer's stay mapped.

    Args:
        folder: with params.json and consolidated.NN.pth.
        mixed: admit tensors of several dtypes.

    Raises:
        CheckpointError: a file is missing, damaged, twice there or of another model; the file and tensor by name.
        SpecError: params.json cannot be used.
    """

    def __init__(self, folder: Path, *, mixed: bool = False) -> None:
        self.params = MetaParams.read(folder / "params.json")
        """Of the model."""
        self._mapped: dict[Path, dict[str, torch.Tensor]] = {}
        self._mapped_layer = ""
        parts = [_look_at(path) for path in _numbered(folder)]
        _check_count(parts, self.params)
        self.paths = [part.path for part in parts]
        """The files, in order."""
        self.by_rows = parts[0].shapes[EMBEDDING][1] == self.params.dim
        """How the embedding is divided; of one file nobody can tell."""
        self.shapes = _whole_shapes(parts, self.params, by_rows=self.by_rows)
        """Of every whole tensor, by Meta's name."""
        self.dtype = parts[0].dtypes[EMBEDDING]
        """Of the embedding, and so of all unless they are mixed, as `bfloat16`."""
        for part in parts:
            self._check(part, mixed=mixed)
        if len(parts) > 1:
            self._check_copies()
            self._check_twins()
        self.tied = self._is_tied()
        """True where the head is the embedding, be it left out or there a second time."""

    def read(self, name: str, dtype: torch.dtype, *, rows: range | None = None) -> torch.Tensor:
        """A copy of one whole tensor, or of some of its rows, in CPU memory.

        Args:
            name: Meta's.
            dtype: of the copy.
            rows: all where it is not given.
        """
        axis, wanted = split_axis(name, by_rows=self.by_rows), range(self.shapes[name][0]) if rows is None else rows
        whole = torch.empty((len(wanted), *self.shapes[name][1:]), dtype=dtype)
        at = 0
        for number, path in enumerate(self.paths if axis is not None else self.paths[:1]):
            piece = self._piece(path, name)
            before = number * len(piece) if axis == 0 else 0
            piece = piece[max(wanted.start - before, 0) : max(wanted.stop - before, 0)]
            size = piece.shape[axis or 0]
            whole.narrow(axis or 0, at, size).copy_(piece)
            at += size
        return whole

    def pieces(self, name: str) -> Iterator[tuple[Path, torch.Tensor]]:
        """What each file holds of a tensor, one after the other; mapped, so not to be kept."""
        for path in self.paths:
            yield path, self._piece(path, name)

    def _piece(self, path: Path, name: str) -> torch.Tensor:
        """What one file holds of a tensor, mapped.

        What was looked at stays in this process's memory until its file is closed, and opening one takes 50 ms where it
        holds 80 layers: all are closed after every layer.
        """
        layer = ".".join(name.split(".")[:2])
        if layer != self._mapped_layer:
            self._mapped, self._mapped_layer = {}, layer
        if path not in self._mapped:
            self._mapped[path] = checked_tensors(path)
        return self._mapped[path][name]

    def _check(self, part: _Part, *, mixed: bool) -> None:
        """Compare what one file holds with what it should."""
        needed = {name: self._piece_shape(name) for name in self.shapes}
        extra = {name for name in part.shapes.keys() - needed.keys() if not name.endswith(FREQUENCIES)}
        faults = [f"{name} is missing" for name in sorted(needed.keys() - part.shapes.keys())]
        faults += [f"{name} is not part of the model" for name in sorted(extra)]
        for name in sorted(needed.keys() & part.shapes.keys()):
            if part.shapes[name] != needed[name]:
                faults.append(f"{name} is {part.shapes[name]}, needs {needed[name]}")
            if part.dtypes[name] not in DTYPES:
                faults.append(f"{name} is {part.dtypes[name]}, needs {', '.join(DTYPES)}")
            elif part.dtypes[name] != self.dtype and not mixed:
                faults.append(f"{name} is {part.dtypes[name]}, others are {self.dtype}, --dtype makes them one")
        if faults:
            more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
            raise CheckpointError(
                f"{part.path}: {'; '.join(faults[:3])}{more}; all files and params.json must be of one model"
            )

    def _piece_shape(self, name: str) -> tuple[int, ...]:
        axis, shape = split_axis(name, by_rows=self.by_rows), list(self.shapes[name])
        if axis is not None:
            shape[axis] //= len(self.paths)
        return tuple(shape)

    def _check_copies(self) -> None:
        """What every file has all of is the same in each."""
        first, *others = (checked_tensors(path) for path in self.paths)
        for name in (name for name in self.shapes if split_axis(name, by_rows=self.by_rows) is None):
            for path, other in zip(self.paths[1:], others, strict=True):
                # Copies that drifted apart by 16-bit rounding are still copies.
                if not torch.allclose(first[name].float(), other[name].float(), rtol=0.01, atol=1e-3, equal_nan=True):
                    raise CheckpointError(
                        f"{path}: {name} is another than in {self.paths[0].name}; they are of two models, "
                        "fetch the files again"
                    )

    def _check_twins(self) -> None:
        """No file is another's copy: the divided tensors of the first layer differ."""
        divided = [name for name in self.shapes if name.startswith("layers.0.") and "norm" not in name]
        contents = [checked_tensors(path) for path in self.paths]
        for later, content in enumerate(contents):
            for earlier in range(later):
                if all(torch.equal(contents[earlier][name], content[name]) for name in (*divided, EMBEDDING)):
                    raise CheckpointError(
                        f"{self.paths[later]}: {divided[0]} and all others are those of {self.paths[earlier].name}, "
                        "one file is there twice; fetch it again"
                    )

    def _is_tied(self) -> bool:
        if HEAD not in self.shapes:
            return True
        count, dtype = self.shapes[EMBEDDING][0], DTYPES[self.dtype]
        for start in range(0, count, _COMPARED_ROWS):
            rows = range(start, min(start + _COMPARED_ROWS, count))
            if not torch.equal(self.read(EMBEDDING, dtype, rows=rows), self.read(HEAD, dtype, rows=rows)):
                return False
        return True


def _numbered(folder: Path) -> list[Path]:
    """The weights' files in order."""
    found = {path.name: path for path in folder.glob("consolidated.*.pth")}
    if not found:
        raise CheckpointError(f"{folder}: holds params.json but no consolidated.00.pth; add the weights")
    names = [f"consolidated.{number:02d}.pth" for number in range(len(found))]
    if missing := [name for name in names if name not in found]:
        raise CheckpointError(
            f"{folder / missing[0]}: missing beside {', '.join(sorted(found))}; the files are numbered from 00, "
            "fetch all of them"
        )
    return [found[name] for name in names]


def _look_at(path: Path) -> _Part:
    content = checked_tensors(path)
    return _Part(
        path,
        {name: tuple(tensor.shape) for name, tensor in content.items()},
        {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in content.items()},
    )


def _check_count(parts: list[_Part], params: MetaParams) -> None:
    """As many files as the matrices were divided into; said before every shape seems wrong."""
    first, name = parts[0], "layers.0.attention.wq.weight"
    # The last layer too: params.json may claim more than anybody has memory to list.
    for needed in (EMBEDDING, name, f"layers.{params.n_layers - 1}.attention.wq.weight"):
        if len(first.shapes.get(needed, ())) != 2:
            raise CheckpointError(f"{first.path}: {needed} is {first.shapes.get(needed, 'missing')}, needs a matrix")
    rows = first.shapes[name][0]
    if rows and params.dim % rows == 0 and (count := params.dim // rows) != len(parts):
        lost = f"consolidated.{len(parts):02d}.pth is missing" if count > len(parts) else "some are of another set"
        raise CheckpointError(
            f"{first.path}: {name} has {rows} of {params.dim} rows, so the model is divided into {count}, "
            f"found {len(parts)} of the files: {lost}"
        )
    for what, size in divided_sizes(params, vocab_size=params.vocab_size or len(parts)).items():
        if size % len(parts):
            raise CheckpointError(
                f"{first.path.parent}: {len(parts)} files do not divide {size} {what}; all files and params.json must "
                "be of one model"
            )


def _whole_shapes(parts: list[_Part], params: MetaParams, *, by_rows: bool) -> dict[str, tuple[int, ...]]:
    """What params.json makes of a model; the number of rows of the vocabulary is the files' own where it says none."""
    held = parts[0].shapes[EMBEDDING][0] * (len(parts) if by_rows else 1)
    vocabulary = params.vocab_size or held
    key_value, inner = params.num_kv_heads * params.head_dim, params.inner_size
    layer = {
        "attention.wq": (params.dim, params.dim),
        "attention.wk": (key_value, params.dim),
        "attention.wv": (key_value, params.dim),
        "attention.wo": (params.dim, params.dim),
        "feed_forward.w1": (inner, params.dim),
        "feed_forward.w2": (params.dim, inner),
        "feed_forward.w3": (inner, params.dim),
        "attention_norm": (params.dim,),
        "ffn_norm": (params.dim,),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, params.dim)}
    for number in range(params.n_layers):
        shapes |= {f"layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    shapes[LAST_NORM] = (params.dim,)
    if any(HEAD in part.shapes for part in parts):  # models with a tied head need none
        shapes[HEAD] = (vocabulary, params.dim)
    return shapes
