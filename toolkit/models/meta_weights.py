"""A folder in Meta's layout read as if it were a Hugging Face one: names, and rows of query and key in its order."""

from collections.abc import Iterable

import torch

from toolkit.models.meta_format import MetaFiles, meta_name, rotary_heads, to_halves


class MetaWeights:
    """What `WeightFiles` is for a Hugging Face folder.

    Args:
        files: where the weights are.
        names: of the tensors in transformers.
    """

    def __init__(self, files: MetaFiles, names: Iterable[str]) -> None:
        self._files = files
        self.shapes = {name: files.shapes[meta_name(name)] for name in names}
        """Of every tensor."""
        self.dtypes = dict.fromkeys(self.shapes, files.dtype)
        """Of every tensor, as `bfloat16`."""

    def read(self, name: str, dtype: torch.dtype, *, rows: range | None = None) -> torch.Tensor:
        """A copy of one tensor, or of some of its rows (of query and key: whole heads), in CPU memory."""
        weight = self._files.read(meta_name(name), dtype, rows=rows)
        heads = rotary_heads(meta_name(name), self._files.params)
        if heads is None:
            return weight
        return to_halves(weight, heads * len(weight) // self.shapes[name][0])

    def where(self, name: str) -> str:
        """File and Meta's name of a tensor, for a message: the first file whose part of it is not finite."""
        pieces = self._files.pieces(meta_name(name))
        path = next((path for path, piece in pieces if not is_finite(piece)), self._files.paths[0])
        return f"{path}: {meta_name(name)}"


def is_finite(tensor: torch.Tensor) -> bool:
    """False where there is NaN or Inf; makes no second tensor as large as this one."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
