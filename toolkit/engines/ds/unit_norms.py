"""Norms of the rows of matrices, wherever ZeRO and tensor parallelism have cut them; clipping by them."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from toolkit.engines.ds.parts import Holder, Part, Replicas
from toolkit.specs.clipping import ClippingConfig


class UnitNorms:
    """Of one buffer: a row of a matrix is a unit, a vector (a norm's weights) is one in whole; made by all ranks.

    Args:
        holder: the buffer.
        replicas: who holds the same tensors.
    """

    def __init__(self, holder: Holder, replicas: Replicas) -> None:
        self._parts, self._device = holder.parts, replicas.device
        self._divided, self._sliced = replicas.divided, replicas.sliced
        here = {part.tensor.name: (_units(part), _is_cut_within(part)) for part in holder.parts}
        everywhere: list[dict[str, tuple[int, bool]]] = [here]
        if self._divided is not None:
            held: list[Any] = [None] * dist.get_world_size(self._divided)
            dist.all_gather_object(held, here, group=self._divided)
            everywhere = held
        tensors = dict(sorted((name, told) for each in everywhere for name, told in each.items()))
        self._first: dict[str, int] = {}
        within = []
        self._total = 0
        for name, (units, cut_within) in tensors.items():
            self._first[name] = self._total
            within += list(range(self._total, self._total + units)) if cut_within else []
            self._total += units
        self._within = torch.tensor(within, dtype=torch.long, device=self._device)

    def clip(self, weights: torch.Tensor, gradients: torch.Tensor, config: ClippingConfig) -> None:
        """Multiply the gradient of each unit by what brings its norm down to `ratio` of the weights' (2102.06171)."""
        squares = torch.zeros(2, self._total, device=self._device)
        for part in self._parts:
            first, last = self._span(part)
            for kind, numbers in enumerate((weights, gradients)):
                squares[kind, first:last] += _sums(part.of(numbers).square(), part).to(self._device)
        if self._divided is not None:
            dist.all_reduce(squares, group=self._divided)
        if self._sliced is not None:
            shared = squares[:, self._within]
            dist.all_reduce(shared, group=self._sliced)
            squares[:, self._within] = shared
        weight_norms, gradient_norms = squares.sqrt()
        allowed = config.ratio * weight_norms.clamp(min=config.floor)
        factors = torch.where(gradient_norms > allowed, allowed / gradient_norms.clamp(min=1e-6), 1.0)
        for part in self._parts:
            first, last = self._span(part)
            part.of(gradients).mul_(_spread(factors[first:last].to(gradients.device), part))

    def _span(self, part: Part) -> tuple[int, int]:
        """Units that the part has numbers of."""
        length, first = _length(part), self._first[part.tensor.name]
        return first + part.start // length, first + math.ceil(part.stop / length)


def _length(part: Part) -> int:
    """Numbers of a unit in this rank's cut."""
    shape = part.piece.cut_shape
    return math.prod(shape if len(shape) < 2 else shape[1:])


def _units(part: Part) -> int:
    return math.prod(part.piece.cut_shape) // _length(part)


def _is_cut_within(part: Part) -> bool:
    """Tensor-parallel ranks hold parts of the same units."""
    piece = part.piece
    return piece.cut_shape != piece.shape and (piece.dim > 0 or len(piece.shape) < 2)


def _sums(numbers: torch.Tensor, part: Part) -> torch.Tensor:
    """Per unit; those at the ends may go on elsewhere."""
    length = _length(part)
    return pad(numbers, (part.start % length, -part.stop % length)).view(-1, length).sum(1)


def _spread(factors: torch.Tensor, part: Part) -> torch.Tensor:
    """One factor per unit -> one per number of the part."""
    length = _length(part)
    skipped = part.start % length
    return factors.repeat_interleave(length)[skipped : skipped + part.stop - part.start]
