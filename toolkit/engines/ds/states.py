"""Where DeepSpeed keeps the fp32 states of the trained tensors on this rank, piece by piece, for all its optimizers.

ZeRO-1 and 2 flatten the tensors of a group and divide the whole; ZeRO-3 divides each tensor; ZeRO-0 keeps all of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from toolkit.engines.base import STATES, Piece, State, States
from toolkit.engines.ds.optimizer import begin_states

_COUNTERS = {
    "loss_scale": "cur_scale",
    "loss_scale_steps": "cur_iter",
    "loss_scale_last_overflow": "last_overflow_iter",
    "loss_scale_hysteresis": "cur_hysteresis",
}
"""Our name -> DeepSpeed's."""


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
    sums = [_bits(tensor.parameter).sum(dtype=torch.int64) for tensor in tensors]
    return hashlib.sha256(held.encode()).hexdigest(), str(torch.stack(sums).tolist() if sums else [])


def _bits(parameter: torch.nn.Parameter) -> torch.Tensor:
    size = parameter.element_size()
    return parameter.detach().view(torch.int32 if size == 4 else torch.int16)


class Keeper(Protocol):
    """One of DeepSpeed's optimizers: where its states are, and how weights follow from them."""

    def pieces(self, *, write: bool = False) -> Iterator[tuple[Piece, States]]:
        """As `Engine.states`; with `write`, what is copied into the tensors stays."""

    def begin(self, num_updates: int) -> None:
        """Make the states of an optimizer that has taken no step yet."""

    def finish(self) -> None:
        """Make the model's weights follow from the states."""


def keeper_of(optimizer: Any, tensors: Sequence[Tensor], *, replica: int, num_replicas: int) -> Keeper:
    """What holds the states.

    Args:
        optimizer: DeepSpeed's, or the plain one that ZeRO-0 in fp32 leaves alone.
        tensors: all trained tensors of this rank.
        replica: which replica of the tensors this rank's is.
        num_replicas: how many there are; under ZeRO-0 they take turns in speaking.
    """
    match optimizer:
        case DeepSpeedZeroOptimizer_Stage3():
            return _DividedTensors(optimizer, tensors)
        case DeepSpeedZeroOptimizer():
            return _DividedGroups(optimizer, optimizer.single_partition_of_fp32_groups, tensors)
        case BF16_Optimizer():
            return _DividedGroups(optimizer, optimizer.fp32_groups_flat_partition, tensors)
        case _:
            return _Whole(optimizer, tensors, replica=replica, num_replicas=num_replicas)


def load(keeper: Keeper, read: Callable[[Piece], States], *, num_updates: int) -> None:
    """Fill the states from outside."""
    keeper.begin(num_updates)
    for piece, states in keeper.pieces(write=True):
        given = read(piece)
        for key in STATES:
            states[key].copy_(given[key])
    keeper.finish()


class _Whole:
    """ZeRO-0: every replica keeps everything; in bf16 and fp16 with fp32 copies of the weights."""

    def __init__(self, optimizer: Any, tensors: Sequence[Tensor], *, replica: int, num_replicas: int) -> None:
        self._tensors = tensors
        self._replica, self._num_replicas = replica, num_replicas
        self._low = isinstance(optimizer, (FP16_Optimizer, FP16_UnfusedOptimizer))
        self._base = optimizer.optimizer if self._low else optimizer
        self._optimizer = optimizer

    def pieces(self, *, write: bool = False) -> Iterator[tuple[Piece, States]]:
        places = self._places()
        for number, tensor in enumerate(self._tensors):
            holder, start = places[tensor.parameter]
            count = tensor.parameter.numel()
            state = self._base.state[holder]
            kept = {"weight": holder.data, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
            flat: States = {key: kept[key].view(-1).narrow(0, start, count) for key in STATES}
            yield tensor.piece(0, count, owned=number % self._num_replicas == self._replica), flat

    def begin(self, num_updates: int) -> None:
        begin_states(self._base, [holder for holder, _ in self._places().values()], num_updates)

    def finish(self) -> None:
        if self._low:
            for parameter, (holder, start) in self._places().items():
                parameter.data.view(-1).copy_(holder.data.view(-1).narrow(0, start, parameter.numel()))

    def _places(self) -> dict[torch.nn.Parameter, tuple[torch.Tensor, int]]:
        """Parameter of the module -> the optimizer's tensor that holds it in fp32, and where in it."""
        places: dict[torch.nn.Parameter, tuple[torch.Tensor, int]] = {}
        match self._optimizer:
            case FP16_UnfusedOptimizer():
                for ours, theirs in zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True):
                    places |= {p: (copy, 0) for p, copy in zip(ours, theirs, strict=True)}
            case FP16_Optimizer():
                for ours, flat in zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups_flat, strict=True):
                    start = 0
                    for parameter in ours:
                        places[parameter] = (flat, start)
                        start += parameter.numel()
            case _:
                places = {tensor.parameter: (tensor.parameter, 0) for tensor in self._tensors}
        return places


class _DividedGroups:
    """ZeRO-1 and 2, also of a pipeline stage: DeepSpeed maps each parameter to its part of the flat buffer.

    BF16_Optimizer is what it takes for ZeRO-1 in bf16 whose gradients a hand-edited ds_config sums in fp32.
    """

    def __init__(self, optimizer: Any, flat: Sequence[torch.Tensor], tensors: Sequence[Tensor]) -> None:
        self._optimizer, self._flat = optimizer, flat
        self._tensors = tensors

    def pieces(self, *, write: bool = False) -> Iterator[tuple[Piece, States]]:
        self._link_states()
        for tensor in self._tensors:
            mapping = tensor.parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:  # all of it is another replica's
                continue
            place = mapping.lp_fragment_address
            states: dict[State, torch.Tensor] = {"weight": mapping.get_hp_fragment().data}
            states |= {key: mapping.get_hp_fragment(key).data for key in STATES if key != "weight"}
            yield tensor.piece(place.start, place.start + place.numel), states

    def begin(self, num_updates: int) -> None:
        begin_states(self._optimizer.optimizer, self._flat, num_updates)

    def _link_states(self) -> None:
        """Let the parameters know their moments: DeepSpeed's first step links those of its first group only."""
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()

    def finish(self) -> None:
        self._optimizer.update_lp_params()


class _DividedTensors:
    """ZeRO-3: each tensor's part lies in the flat buffer of its sub-group, in memory or on a disk."""

    def __init__(self, optimizer: DeepSpeedZeroOptimizer_Stage3, tensors: Sequence[Tensor]) -> None:
        self._optimizer: Any = optimizer
        self._tensors = {tensor.parameter: tensor for tensor in tensors}

    def pieces(self, *, write: bool = False) -> Iterator[tuple[Piece, States]]:
        zero = self._optimizer
        for number, group in enumerate(zero.fp16_groups):
            with self._in_memory(number, write=write) as flat:
                kept = {"weight": flat.data, **zero.optimizer.state[flat]}
                for parameter in group:
                    _, offset, part = zero.grad_position[zero.get_param_id(parameter)]
                    start = part * zero._get_param_partition_rank(parameter)
                    count = min(part, parameter.ds_numel - start)  # the last rank's part is padded
                    if count > 0:
                        states: States = {key: kept[key].narrow(0, offset, count) for key in STATES}
                        yield self._tensors[parameter].piece(start, start + count), states

    def begin(self, num_updates: int) -> None:
        for number in range(len(self._optimizer.fp16_groups)):
            with self._in_memory(number, write=True) as flat:
                begin_states(self._optimizer.optimizer, [flat], num_updates)

    def finish(self) -> None:
        # What DeepSpeed does after the optimizer's step: the weights are rounded from the states, small ones gathered.
        zero = self._optimizer
        zero._partition_all_parameters()
        for number in range(len(zero.fp16_groups)):
            with self._in_memory(number):
                zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    @contextmanager
    def _in_memory(self, number: int, *, write: bool = False) -> Iterator[torch.Tensor]:
        """The flat weights of a sub-group; what lives on a disk is there for as long as the context lasts."""
        zero = self._optimizer
        swapped = zero._swappable_optimizer_subgroup(number)
        if swapped:
            zero._optimizer_states_and_gradient_swap_in(number)
        yield zero.fp32_partitioned_groups_flat[number]
        if swapped and write:
            zero._optimizer_states_and_gradient_swap_out(number)
        elif swapped:
            zero._release_swap_buffers(number)


def counters_of(optimizer: Any) -> dict[str, float]:
    """What the dynamic loss scale of fp16 depends on; empty in other formats."""
    scaler = _scaler_of(optimizer)
    return {name: float(getattr(scaler, held)) for name, held in _COUNTERS.items() if hasattr(scaler, held)}


def set_counters(optimizer: Any, counters: Mapping[str, float]) -> None:
    """Continue with another run's dynamic loss scale."""
    scaler = _scaler_of(optimizer)
    for name, held in _COUNTERS.items():
        if name in counters and hasattr(scaler, held):
            setattr(scaler, held, type(getattr(scaler, held))(counters[name]))


def _scaler_of(optimizer: Any) -> Any:
    """DeepSpeed's ZeRO-0 has a record of numbers for it, its ZeRO stages an object; None without a dynamic scale."""
    record = getattr(optimizer, "loss_scale_config", None)
    if record is not None:
        return record if record.dynamic_loss_scale else None
    scaler = getattr(optimizer, "loss_scaler", None)
    return scaler if getattr(scaler, "dynamic", False) else None
