"""What a run needs to go on, read out of DeepSpeed's optimizers and put back: weights, moments, the loss scale."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from toolkit.engines.base import OUTER_MOMENTUM, WEIGHT, Piece, States
from toolkit.engines.ds.moments import Moments
from toolkit.engines.ds.parts import Keeper

_COUNTERS = {
    "loss_scale": "cur_scale",
    "loss_scale_steps": "cur_iter",
    "loss_scale_last_overflow": "last_overflow_iter",
    "loss_scale_hysteresis": "cur_hysteresis",
}
"""Our name -> DeepSpeed's."""


def pieces(keeper: Keeper, moments: Sequence[Moments]) -> Iterator[tuple[Piece, States]]:
    """As `Engine.states`; each of `moments` keeps something of every buffer."""
    for holder in keeper.holders:
        with keeper.in_memory(holder) as flat:
            kept = {WEIGHT: flat.data}
            for each in moments:
                kept |= each.of(flat)
            for part in holder.parts:
                states: dict[str, torch.Tensor] = {key: part.of(tensor) for key, tensor in kept.items()}
                for each in moments:
                    states |= each.of_tensor(part)
                yield part.piece, states


def load(
    keeper: Keeper, moments: Sequence[Moments], read: Callable[[Piece], States], *, num_updates: int
) -> tuple[str, ...]:
    """Fill the states from outside; what is worth telling of it, one sentence each."""
    begun = False
    for holder in keeper.holders:
        with keeper.in_memory(holder, write=True) as flat:
            kept = {WEIGHT: flat.data}
            for each in moments:
                kept |= each.begin(flat, num_updates)
            for part in holder.parts:
                given = read(part.piece)
                for key, tensor in kept.items():
                    if key == OUTER_MOMENTUM and key not in given:
                        begun = True
                        part.of(tensor).zero_()
                    else:
                        part.of(tensor).copy_(given[key])
                for each in moments:
                    each.load_tensor(part, given)
            for each in moments:
                each.load(flat, kept)
    for each in moments:
        each.finish(num_updates)
    keeper.finish()
    # The run that saved had no outer steps; those of this one begin here, as they would at its start.
    return ("outer momentum: the checkpoint holds none, it begins at zeros",) if begun else ()


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
