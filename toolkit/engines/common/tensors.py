"""The trained tensors as this rank holds them, before ZeRO divides them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from toolkit.engines.base import Piece

_WORDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "8 bits"}


@dataclass(frozen=True)
class Tensor:
    """A trained tensor as this rank holds it, before ZeRO divides it."""

    name: str
    """As in `full_state`."""
    parameter: torch.nn.Parameter
    """In the module; empty under ZeRO-3."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dim: int
    """Cut along it by tensor parallelism."""
    low: int
    """First index of this rank's cut."""
    high: int
    """Index after the last one."""
    replicated: bool
    """Another rank of this replica holds the same, and speaks for it."""

    def piece(self, start: int, stop: int, *, owned: bool = True) -> Piece:
        """Of the flattened cut."""
        return Piece(
            self.name, self.shape, self.dim, self.low, self.high, start, stop, owned=owned and not self.replicated
        )


def trained_tensors(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    whole_shapes: Mapping[str, tuple[int, ...]],
    *,
    group: dist.ProcessGroup | None,
) -> list[Tensor]:
    """The trained tensors of this rank; all ranks of `group` call it with the same names.

    Args:
        named: parameters of the module, as in `full_state`.
        whole_shapes: of the tensors that may be cut.
        group: the ranks of one replica that divide its layers, if any.
    """
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    here = [tuple(getattr(parameter, "ds_shape", parameter.shape)) for _, parameter in trained]
    everyone: list[list[tuple[int, ...]]] = [here]
    index = 0
    if group is not None:
        index = dist.get_rank(group)
        everyone = [[] for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(everyone, here, group=group)
    tensors = []
    for number, (name, parameter) in enumerate(trained):
        whole = whole_shapes.get(name, here[number])
        cut = [dim for dim, size in enumerate(whole) if size != here[number][dim]]
        dim = cut[0] if cut else 0
        low = sum(shapes[number][dim] for shapes in everyone[:index]) if cut else 0
        high = low + here[number][dim]
        tensors.append(Tensor(name, parameter, whole, dim, low, high, replicated=index > 0 and not cut))
    return tensors


def digest_of(tensors: Sequence[Tensor]) -> tuple[str, str]:
    """Names and cuts of the tensors that this rank holds, and the sum of their bits, each as a number."""
    held = json.dumps([(tensor.name, tensor.dim, tensor.low, tensor.high) for tensor in tensors])
    return hashlib.sha256(held.encode()).hexdigest(), sums_of_bits(tensor.parameter for tensor in tensors)


def sums_of_bits(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Of each parameter, as numbers."""
    sums = [_bits(parameter).sum(dtype=torch.int64) for parameter in parameters]
    return str(torch.stack(sums).tolist() if sums else [])


def _bits(parameter: torch.nn.Parameter) -> torch.Tensor:
    size = parameter.element_size()
    return parameter.detach().view(torch.int32 if size == 4 else torch.int16)


def words_of(dtypes: Iterable[torch.dtype]) -> str:
    """Types of numbers as people call them, each once."""
    return " and ".join(sorted({_WORDS.get(dtype, str(dtype)) for dtype in dtypes}))
