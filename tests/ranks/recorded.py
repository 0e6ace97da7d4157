"""What an optimizer was given and what it made of it, put together from the parts that the ranks hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from procs import run_ranks
from ranks.runs import batches_of, open_engine
from ranks.settings import LEARNING_RATES, WEIGHT_DECAY
from toolkit.engines.base import StepResult
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

Whole = dict[str, torch.Tensor]
"""Tensors by name, in their shapes."""
_Pieces = list[tuple[str, tuple[int, ...], int, torch.Tensor]]
"""Name, shape of the whole, first number, numbers."""


@dataclass(frozen=True)
class Recorded:
    """Gradients as the optimizer got them, clipped, and weights, in fp32."""

    before: Whole
    gradients: list[Whole]
    """Of each step."""
    after: Whole
    """Weights after the last one."""


def recorded(folder: Path) -> Recorded:
    """Train a run on its ranks, which cut tensors over replicas and stages only."""
    by_rank = run_ranks(_record, Plan.load(RunFolder(folder).plan).world_size, folder, timeout_s=120)
    before, *gradients, after = (_together(pieces) for pieces in zip(*by_rank, strict=True))
    return Recorded(before, gradients, after)


def _record(folder: Path) -> list[_Pieces]:
    """Weights, the gradients of each step, weights."""
    engine: Any = open_engine(folder)
    keeper = engine._updates.keeper
    batches, found, step = batches_of(folder, engine), [_weights(engine)], []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        flats = {flat for group in optimizer.param_groups for flat in group["params"]}
        for holder in keeper.holders:
            if holder.flat in flats:
                gradient = holder.flat.grad.clone()
                step.extend((p.tensor.name, p.tensor.shape, p.start, p.of(gradient)) for p in holder.parts)

    keeper.base.register_step_pre_hook(look)
    for index, rate in enumerate(LEARNING_RATES):
        step.clear()
        engine.train_step(batches.step(index), learning_rate=rate)
        found.append(list(step))
    found.append(_weights(engine))
    engine.close()
    return found


def beside_the_library(folder: Path, make: Callable[..., torch.optim.Optimizer]) -> tuple[float, list[StepResult]]:
    """Train on this rank with the library's own optimizer beside it, on copies of the buffers that DeepSpeed made.

    Returns:
        How far the furthest number is from its copy's in the end, and the steps.
    """
    engine: Any = open_engine(folder)
    keeper = engine._updates.keeper
    copies = {holder.flat: torch.nn.Parameter(holder.flat.detach().clone()) for holder in keeper.holders}
    theirs = {flat: make([copy], weight_decay=WEIGHT_DECAY) for flat, copy in copies.items()}

    def follow(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for flat in group["params"]:
                if flat in copies:
                    copies[flat].grad = flat.grad.clone()
                    theirs[flat].param_groups[0]["lr"] = group["lr"]
                    theirs[flat].step()

    keeper.base.register_step_pre_hook(follow)
    batches = batches_of(folder, engine)
    steps = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    furthest = max(float((flat.detach() - copy.detach()).abs().max()) for flat, copy in copies.items())
    engine.close()
    return furthest, steps


def _weights(engine: Any) -> _Pieces:
    keeper = engine._updates.keeper
    return [
        (part.tensor.name, part.tensor.shape, part.start, part.of(holder.flat.detach()).clone())
        for holder in keeper.holders
        for part in holder.parts
    ]


def _together(by_rank: Sequence[_Pieces]) -> Whole:
    whole: Whole = {}
    for name, shape, start, numbers in (piece for pieces in by_rank for piece in pieces):
        tensor = whole.setdefault(name, torch.full(shape, torch.nan))
        tensor.view(-1)[start : start + len(numbers)] = numbers
    assert not any(tensor.isnan().any() for tensor in whole.values())
    return whole
