"""What the ranks of a test run: a planned and emitted run folder through the public engine."""

from pathlib import Path
from typing import Any

import torch
from ranks.settings import CLIP, GLOBAL_BATCH, LEARNING_RATES, WEIGHT_DECAY
from ranks.tiny import PAD, SEQ_LEN, training_rows

import toolkit
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines import Engine, engine_for
from toolkit.engines.base import StepResult
from toolkit.models.build import build_model
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import OptimizerConfig, Recipe


def write_run(folder: Path, model: Path, **choices: Any) -> Path:
    """Plan on two CPU ranks and emit; `choices` as for `toolkit.plan`."""
    wanted = {"precision": "fp32", "micro_batch": 2, "zero_stage": 2, "activation_checkpointing": False, **choices}
    plan = toolkit.plan(model, "2xcpu", seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, gradient_clipping=CLIP, **wanted)
    recipe = Recipe(model=str(model), workload=plan.workload, optimizer=OptimizerConfig(weight_decay=WEIGHT_DECAY))
    return toolkit.emit(plan, folder, recipe)


def open_engine(folder: Path) -> Engine:
    """What finetune.py does between reading the files and the first batch."""
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    torch.manual_seed(recipe.seed)
    return engine_for(plan, recipe, model=build_model(plan, recipe), folder=run)


def batches_of(folder: Path, engine: Engine) -> GlobalBatches:
    """The rows of `tiny.training_rows` in this rank's order."""
    strategy = Plan.load(RunFolder(folder).plan).strategy
    share = Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)
    return GlobalBatches(training_rows(), share, seed=3, pad_token_id=PAD)


def train(folder: Path) -> list[StepResult]:
    """All steps of a run, seen from this rank."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    results = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    engine.close()
    return results
