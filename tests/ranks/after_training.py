"""What the ranks of test_after_training run: some steps, looked at in between, then the export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ranks.runs import batches_of, open_engine
from ranks.settings import LEARNING_RATES
from ranks.tiny import EOS, PAD, training_rows
from toolkit.checkpoints.export import Targets, export
from toolkit.data.loader import Share, eval_batches
from toolkit.engines.base import Batch, StepResult
from toolkit.models.pretrained import load_tokenizer
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

NUM_STEPS = 6
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Shown:
    """What one rank saw."""

    steps: list[StepResult]
    losses: list[float]
    """On all rows, after the third step and after the last."""
    answers: list[list[list[int]]]
    """Every rank's answers in rank order."""


def learn_and_export(folder: Path, prompts: Sequence[Sequence[list[int]]], stop: int) -> Shown:
    """Train, measure and generate in the middle and at the end, export, train one step more.

    Args:
        folder: the run.
        prompts: for each replica its prompts, as many for each; one is a batch.
        stop: token that ends an answer.
    """
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    dp = Plan.load(RunFolder(folder).plan).strategy.layout.dp
    held_out = eval_batches(training_rows(), Share(dp, engine.data_rank, 2), pad_token_id=PAD)
    questions = [_left_padded(prompt) for prompt in prompts[engine.data_rank]]
    steps, losses, answers = [], [], []
    for index in range(NUM_STEPS):
        steps.append(engine.train_step(batches.step(index), learning_rate=LEARNING_RATES[index]))
        if index in (2, NUM_STEPS - 1):
            losses.append(engine.eval_loss(held_out))
            answers = engine.generate(questions, max_new_tokens=MAX_NEW_TOKENS, stop_token_ids=[EOS, stop])
    answers = engine.gather(answers)
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    tokenizer = load_tokenizer(recipe.model, plan.model)
    export(
        engine, Targets(run.export, run.adapter), plan=plan, recipe=recipe, tokenizer=tokenizer, stop_token_ids=[EOS]
    )
    steps.append(engine.train_step(batches.step(NUM_STEPS), learning_rate=LEARNING_RATES[NUM_STEPS]))
    engine.close()
    return Shown(steps, losses, answers)


def _left_padded(prompt: list[int], width: int = 16) -> Batch:
    gap = width - len(prompt)
    return {
        "input_ids": torch.tensor([[PAD] * gap + prompt]),
        "attention_mask": torch.tensor([[0] * gap + [1] * len(prompt)]),
    }
