"""What an engine trains once it is prepared, compared with what was to be trained."""

import math
from collections.abc import Mapping, Sequence

import torch

from toolkit.engines.common.sums import gather_objects
from toolkit.engines.common.tensors import Tensor
from toolkit.errors import EngineError


def trained_sizes(model: torch.nn.Module) -> dict[str, int]:
    """Number of parameters of each tensor that trains, in a model that no engine has taken yet."""
    return {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}


def sizes_of(tensors: Sequence[Tensor]) -> dict[str, int]:
    """The same of what this rank trains."""
    return {tensor.name: math.prod(tensor.shape) for tensor in tensors}


def check_nothing_lost(wanted: Mapping[str, int], here: Mapping[str, int], *, library: str) -> None:
    """Refuse an engine that trains less than it was given, or more: a collective.

    Some layouts of DeepSpeed replace layers, and adapters inside them vanish without a word.

    Args:
        wanted: of `trained_sizes`.
        here: what this rank trains.
        library: name and release of what has prepared the model.

    Raises:
        EngineError: with tensors and parameters of both, and a tensor in which they differ.
    """
    found: dict[str, int] = {}
    for sizes in gather_objects(here):
        found |= sizes
    if found != wanted:
        first = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise EngineError(
            f"{library} trains {len(found)} tensors of {sum(found.values()):,} parameters, "
            f"wanted are {len(wanted)} of {sum(wanted.values()):,}; the first that differs is {first}"
        )
