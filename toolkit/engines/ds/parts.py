"""Where DeepSpeed keeps the fp32 numbers that this rank updates: flat buffers, and the tensors whose parts lie in them.

ZeRO-1 and 2 flatten the tensors of a group and divide the whole; ZeRO-3 divides each tensor; ZeRO-0 keeps all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch.optim import Optimizer

from toolkit.engines.base import Piece
from toolkit.engines.common.tensors import Tensor


@dataclass(frozen=True)
class Part:
    """Consecutive numbers of a tensor in one of the optimizer's buffers."""

    tensor: Tensor
    """Which."""
    start: int
    """First number in the flattened cut."""
    stop: int
    """Number after the last one."""
    offset: int
    """Where the first one lies in the buffer."""
    owned: bool
    """This replica speaks for it."""

    @property
    def piece(self) -> Piece:
        """As checkpoints know it."""
        return self.tensor.piece(self.start, self.stop, owned=self.owned)

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        """Its numbers in the buffer, or in one of the same length (gradient, moment): a view, [stop - start]."""
        return buffer.view(-1).narrow(0, self.offset, self.stop - self.start)


@dataclass(frozen=True, eq=False)
class Holder:
    """One buffer that the optimizer updates."""

    flat: torch.Tensor
    """As the optimizer knows it; its numbers may be on a disk."""
    parts: tuple[Part, ...]
    """What lies in it."""


class Replicas(NamedTuple):
    """Who holds the same tensors as this rank, and where they meet."""

    rank: int
    """Which of the replicas this one is."""
    num_replicas: int
    """How many there are."""
    divided: dist.ProcessGroup | None
    """Those that ZeRO divides the tensors over; None in stage 0, where each has them in whole."""
    sliced: dist.ProcessGroup | None
    """Ranks of one replica that tensor parallelism divides layers over, if any."""
    device: torch.device
    """Where the process groups work."""


class Keeper(Protocol):
    """One of DeepSpeed's optimizers: its buffers, and how weights follow from them."""

    base: Optimizer
    """The optimizer of torch's kind beneath."""
    holders: list[Holder]
    """Its buffers."""

    def in_memory(self, holder: Holder, *, write: bool = False) -> Any:
        """A context with the buffer's numbers in memory; with `write`, what is copied into them stays."""

    def finish(self) -> None:
        """Make the model's weights follow from the buffers."""


def keeper_of(optimizer: Any, tensors: Sequence[Tensor], replicas: Replicas) -> Keeper:
    """What holds the numbers.

    Args:
        optimizer: DeepSpeed's, or the plain one that ZeRO-0 in fp32 leaves alone.
        tensors: all trained tensors of this rank.
        replicas: of them; under ZeRO-0 they take turns in speaking.
    """
    match optimizer:
        case DeepSpeedZeroOptimizer_Stage3():
            return _DividedTensors(optimizer, tensors)
        case DeepSpeedZeroOptimizer():
            return _DividedGroups(optimizer, optimizer.single_partition_of_fp32_groups, tensors)
        case BF16_Optimizer():
            return _DividedGroups(optimizer, optimizer.fp32_groups_flat_partition, tensors)
        case _:
            return _Whole(optimizer, tensors, replicas)


class _Whole:
    """ZeRO-0: every replica keeps everything; in bf16 and fp16 with fp32 copies of the weights."""

    def __init__(self, optimizer: Any, tensors: Sequence[Tensor], replicas: Replicas) -> None:
        self._low = isinstance(optimizer, (FP16_Optimizer, FP16_UnfusedOptimizer))
        self.base = optimizer.optimizer if self._low else optimizer
        found: dict[torch.Tensor, list[Part]] = {}
        places = _places(optimizer) or {tensor.parameter: (tensor.parameter, 0) for tensor in tensors}
        for number, tensor in enumerate(tensors):
            flat, offset = places[tensor.parameter]
            owned = number % replicas.num_replicas == replicas.rank
            found.setdefault(flat, []).append(Part(tensor, 0, tensor.parameter.numel(), offset, owned))
        self.holders = [Holder(flat, tuple(parts)) for flat, parts in found.items()]

    @contextmanager
    def in_memory(self, holder: Holder, *, write: bool = False) -> Iterator[torch.Tensor]:
        yield holder.flat

    def finish(self) -> None:
        if self._low:
            for holder in self.holders:
                for part in holder.parts:
                    part.tensor.parameter.data.view(-1).copy_(part.of(holder.flat.data))


def _places(optimizer: Any) -> dict[torch.nn.Parameter, tuple[torch.Tensor, int]]:
    """Parameter of the module -> the optimizer's tensor that holds it in fp32, and where in it."""
    places: dict[torch.nn.Parameter, tuple[torch.Tensor, int]] = {}
    match optimizer:
        case FP16_UnfusedOptimizer():
            for ours, theirs in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
                places |= {p: (copy, 0) for p, copy in zip(ours, theirs, strict=True)}
        case FP16_Optimizer():
            for ours, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
                start = 0
                for parameter in ours:
                    places[parameter] = (flat, start)
                    start += parameter.numel()
    return places


class _DividedGroups:
    """ZeRO-1 and 2, also of a pipeline stage: DeepSpeed maps each parameter to its part of the flat buffer.

    BF16_Optimizer is what it takes for ZeRO-1 in bf16 whose gradients a hand-edited ds_config sums in fp32.
    """

    def __init__(self, optimizer: Any, flats: Sequence[torch.Tensor], tensors: Sequence[Tensor]) -> None:
        self._optimizer, self.base = optimizer, optimizer.optimizer
        parts: list[list[Part]] = [[] for _ in flats]
        for tensor in tensors:
            mapping = tensor.parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # else all of it is another replica's
                ours, theirs = mapping.lp_fragment_address, mapping.hp_fragment_address
                part = Part(tensor, ours.start, ours.start + ours.numel, theirs.start, owned=True)
                parts[mapping.param_group_index].append(part)
        self.holders = [Holder(flat, tuple(found)) for flat, found in zip(flats, parts, strict=True)]

    @contextmanager
    def in_memory(self, holder: Holder, *, write: bool = False) -> Iterator[torch.Tensor]:
        yield holder.flat

    def finish(self) -> None:
        self._optimizer.update_lp_params()


class _DividedTensors:
    """ZeRO-3: each tensor's part lies in the flat buffer of its sub-group, in memory or on a disk."""

    def __init__(self, optimizer: DeepSpeedZeroOptimizer_Stage3, tensors: Sequence[Tensor]) -> None:
        self._zero: Any = optimizer
        self.base = self._zero.optimizer
        known = {tensor.parameter: tensor for tensor in tensors}
        self.holders = []
        for flat, group in zip(self._zero.fp32_partitioned_groups_flat, self._zero.fp16_groups, strict=True):
            parts = []
            for parameter in group:
                _, offset, size = self._zero.grad_position[self._zero.get_param_id(parameter)]
                start = size * self._zero._get_param_partition_rank(parameter)
                count = min(size, parameter.ds_numel - start)  # the last rank's part is padded
                if count > 0:
                    parts.append(Part(known[parameter], start, start + count, offset, owned=True))
            self.holders.append(Holder(flat, tuple(parts)))

    def finish(self) -> None:
        # What DeepSpeed does after the optimizer's step: the weights are rounded from the states, small ones gathered.
        zero = self._zero
        zero._partition_all_parameters()
        # ZeRO++'s second copies (hpZ) are of the weights before; the next gathering makes them again.
        zero.invalidate_secondary_tensor()
        for number, holder in enumerate(self.holders):
            with self.in_memory(holder):
                zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    @contextmanager
    def in_memory(self, holder: Holder, *, write: bool = False) -> Iterator[torch.Tensor]:
        zero, number = self._zero, self.holders.index(holder)
        swapped = zero._swappable_optimizer_subgroup(number)
        if swapped:
            zero._optimizer_states_and_gradient_swap_in(number)
        yield zero.fp32_partitioned_groups_flat[number]
        if swapped and write:
            zero._optimizer_states_and_gradient_swap_out(number)
        elif swapped:
            zero._release_swap_buffers(number)
