"""What the ranks of a test run where something is wrong: with the rows, a loss, a weight or the loss scale."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ranks.runs import batches_of, open_engine
from ranks.settings import LEARNING_RATES
from toolkit.engines import Engine
from toolkit.engines.base import StepResult


def train_on_rows_padded_on_the_left(folder: Path) -> float:
    """Loss of the first step on its rows, turned so that their padding comes first."""
    engine = open_engine(folder)
    turned = []
    for batch in batches_of(folder, engine).step(0):
        lengths = batch["attention_mask"].sum(1).tolist()
        turned.append(
            {
                name: torch.stack([row.roll(-length) for row, length in zip(rows, lengths, strict=True)])
                for name, rows in batch.items()
            }
        )
    loss = engine.train_step(turned, learning_rate=LEARNING_RATES[0]).loss
    engine.close()
    return loss


def train_on_other_rows(folder: Path, first: int) -> list[StepResult]:
    """As `train`, but that from step `first` on every rank turns the rows of its micro-batches by its number."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    results = []
    for index, rate in enumerate(LEARNING_RATES):
        by = engine.rank if index >= first else 0
        turned = [{name: rows.roll(by, 0) for name, rows in batch.items()} for batch in batches.step(index)]
        results.append(engine.train_step(turned, learning_rate=rate))
    engine.close()
    return results


def train_through_a_bad_step(folder: Path, bad: int) -> tuple[list[StepResult], bool]:
    """All steps, one with a loss that is no number on the last rank; whether it left this rank's states alone."""
    engine: Any = open_engine(folder)
    batches, module = batches_of(folder, engine), sys.modules[type(engine).__module__]
    loss_sum = module.loss_sum
    results, untouched = [], True
    for index, rate in enumerate(LEARNING_RATES):
        spoiled = index == bad and engine.rank == engine.world_size - 1
        before = _copied_states(engine) if index == bad else None
        factor = torch.nan if spoiled else 1.0
        with mock.patch.object(module, "loss_sum", lambda *given, factor=factor: loss_sum(*given) * factor):
            results.append(engine.train_step(batches.step(index), learning_rate=rate))
        if before is not None:
            after = _copied_states(engine)
            untouched = all(torch.equal(after[name], kept) for name, kept in before.items())
    engine.close()
    return results, untouched


def train_leaving_out(folder: Path, left_out: int) -> list[StepResult]:
    """All steps but one."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    results = [
        engine.train_step(batches.step(index), learning_rate=rate)
        for index, rate in enumerate(LEARNING_RATES)
        if index != left_out
    ]
    engine.close()
    return results


def digests_before_and_after(folder: Path) -> list[list[Any]]:
    """Of all ranks, as rank 0 sees them: after a step, and after one bit of the last rank's weights has flipped."""
    engine: Any = open_engine(folder)
    engine.train_step(batches_of(folder, engine).step(0), learning_rate=LEARNING_RATES[0])
    told = [engine.gather(engine.weights_digest())]
    weight = engine._tensors[0].parameter.data
    if engine.rank == engine.world_size - 1 and weight.numel():
        weight.view(torch.int32 if weight.element_size() == 4 else torch.int16).view(-1)[0] ^= 1
    told.append(engine.gather(engine.weights_digest()))
    engine.close()
    return told


def _copied_states(engine: Engine) -> dict[str, torch.Tensor]:
    return {f"{piece.name} {key}": one.clone() for piece, states in engine.states() for key, one in states.items()}


@dataclass(frozen=True)
class Overflows:
    """A run in fp16 that repeats every step until its gradients no longer overflow."""

    skipped: list[StepResult]
    """Attempts that overflowed."""
    steps: list[StepResult]
    """Attempts that went through."""
    held_out: list[float]
    """Loss of all ranks' weights: before the first attempt, and after each one until the first went through."""


def train_through_overflows(folder: Path) -> Overflows:
    """All steps of a run, and what the overflows at its start left behind."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    held_out = [engine.eval_loss(batches.step(1))]
    skipped: list[StepResult] = []
    steps: list[StepResult] = []
    for index, rate in enumerate(LEARNING_RATES):
        while (result := engine.train_step(batches.step(index), learning_rate=rate)).skipped:
            skipped.append(result)
            if not steps:
                held_out.append(engine.eval_loss(batches.step(1)))
        steps.append(result)
    engine.close()
    return Overflows(skipped, steps, held_out)
