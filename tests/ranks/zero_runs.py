"""What the ranks of a test run: a planned and emitted run folder through the public engine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ranks.settings import CLIP, GLOBAL_BATCH, LEARNING_RATES, LORA_ALPHA, LORA_RANK, LORA_TARGETS, SEED, WEIGHT_DECAY
from ranks.tiny import PAD, SEQ_LEN, training_rows

import toolkit
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines import Engine, engine_for
from toolkit.engines.base import StepResult
from toolkit.models.lora import add_lora
from toolkit.models.pretrained import checkpoint_activations, load_pretrained
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import LoraConfig, OptimizerConfig, Recipe


def write_run(folder: Path, model: Path, *, cluster: str = "2xcpu", **choices: Any) -> Path:
    """Plan and emit; `choices` as for `toolkit.plan`."""
    wanted = {"precision": "fp32", "micro_batch": 2, "activation_checkpointing": False, **choices}
    plan = toolkit.plan(
        model,
        cluster,
        seq_len=SEQ_LEN,
        global_batch=GLOBAL_BATCH,
        gradient_clipping=CLIP,
        lora_rank=LORA_RANK,
        **wanted,
    )
    recipe = Recipe(
        model=str(model),
        workload=plan.workload,
        optimizer=OptimizerConfig(weight_decay=WEIGHT_DECAY),
        lora=LoraConfig(alpha=LORA_ALPHA, targets=LORA_TARGETS),
        seed=SEED,
    )
    return toolkit.emit(plan, folder, recipe)


@contextmanager
def edited_ds_config(folder: Path) -> Iterator[dict[str, Any]]:
    """The content of ds_config.json, written back on leaving, as a user's editor would."""
    path = RunFolder(folder).ds_config
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def open_engine(folder: Path) -> Engine:
    """What finetune.py does between reading the files and the first batch."""
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    torch.manual_seed(recipe.seed)
    model: Any = load_pretrained(recipe.model, plan.model, precision=plan.workload.precision)
    if plan.strategy.activation_checkpointing:
        checkpoint_activations(model, adapters=plan.workload.method == "lora")
    if plan.workload.method == "lora":
        model = add_lora(model, recipe.lora, rank=plan.workload.lora_rank)
    return engine_for(plan, recipe, model=model, folder=run)


def batches_of(folder: Path, engine: Engine) -> GlobalBatches:
    """The rows of `tiny.training_rows` in this rank's order."""
    strategy = Plan.load(RunFolder(folder).plan).strategy
    share = Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)
    return GlobalBatches(training_rows(), share, seed=SEED, pad_token_id=PAD)


def train(folder: Path) -> list[StepResult]:
    """All steps of a run, seen from this rank."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    results = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    engine.close()
    return results


def train_without(part: str, folder: Path) -> list[StepResult]:
    """As `train`, with a function of the engine's module, or a method of the engine, replaced by one that does nothing."""
    with mock.patch(f"toolkit.engines.zero.engine.{part}", return_value=None):
        return train(folder)


@dataclass(frozen=True)
class Overflows:
    """A run in fp16 whose first steps overflow."""

    skipped: list[StepResult]
    """Attempts at the first step whose gradients overflowed."""
    held_out: list[float]
    """Loss before them and after each of them."""
    weights_moved: bool
    """True if rank 0's weights changed meanwhile."""
    steps: list[StepResult]
    """All steps from the first that went through."""


def train_through_overflows(folder: Path) -> Overflows:
    """Repeat the first step until it goes through, then all others."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    before = dict(engine.full_state())
    held_out = [engine.eval_loss(batches.step(1))]
    skipped = []
    while (first := engine.train_step(batches.step(0), learning_rate=LEARNING_RATES[0])).skipped:
        skipped.append(first)
        held_out.append(engine.eval_loss(batches.step(1)))
        after = dict(engine.full_state())
    moved = any(not torch.equal(weight, after[name]) for name, weight in before.items())
    rest = [
        engine.train_step(batches.step(index), learning_rate=rate)
        for index, rate in enumerate(LEARNING_RATES[1:], start=1)
    ]
    engine.close()
    return Overflows(skipped, held_out, moved, [first, *rest])
