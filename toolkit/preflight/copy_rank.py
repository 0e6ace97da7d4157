"""Three steps of a tiny copy of a run, as one of its ranks: `python -m toolkit.preflight.copy_rank RUN RESULT`.

With `--alone` it is one process instead, and plain transformers and torch do the same beside it.
"""

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from toolkit.data.encode import IGNORED
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.packing import pack, token_counts
from toolkit.engines import engine_for
from toolkit.errors import ToolkitError
from toolkit.launcher.processes import die_with_parent
from toolkit.models.build import build_model
from toolkit.models.tiny import VOCAB_SIZE, write_tiny
from toolkit.planner.plan import Plan
from toolkit.preflight.copies import alone, num_layers, num_shards, tiny_ds_config, tiny_plan, tiny_recipe
from toolkit.preflight.plain_steps import plain_steps
from toolkit.run_folder import RunFolder
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe

RATES = (1e-3, 4e-4, 7e-4)
"""No two alike: one that arrives a step late would show."""


def copied(run: RunFolder, folder: Path, *, one_process: bool) -> tuple[Plan, Recipe, RunFolder]:
    """Plan, recipe and folder of the copy, written into `folder`; every rank makes the same."""
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    weights = write_tiny(
        recipe.model, folder / "model", layers=num_layers(plan.strategy), shards=num_shards(plan.strategy.layout)
    )
    spec = ModelSpec.resolve(str(weights))
    small = tiny_plan(plan, spec)
    edited = run.ds_config if plan.strategy.on_deepspeed else None
    if one_process:
        small = alone(small)
    tiny = RunFolder(folder)
    if small.strategy.on_deepspeed:
        tiny.ds_config.write_text(json.dumps(tiny_ds_config(small, edited)), encoding="utf-8")
    return small, tiny_recipe(recipe, small.workload, model=spec, folder=weights), tiny


def batches_of(plan: Plan, *, data_rank: int, packing: bool) -> GlobalBatches:
    """Rows of very unequal length, and of those of one length a few with most of the labels."""
    draw, longest = random.Random(0), plan.workload.seq_len
    samples: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for number in range(4 * plan.workload.global_batch):
        ids = [draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(8, longest))]
        prompt = 2 if number % 3 == 0 else len(ids) - draw.randint(1, 3)
        samples["input_ids"].append(ids)
        samples["labels"].append([IGNORED] * prompt + ids[prompt:])
    rows, strategy = Dataset.from_dict(samples), plan.strategy
    share = Share(strategy.layout.dp, data_rank, strategy.micro_batch, strategy.grad_accum)
    packs = pack(token_counts(rows), capacity=longest) if packing else None
    return GlobalBatches(rows, share, seed=0, pad_token_id=0, packs=packs)


def trained(run: RunFolder, *, one_process: bool) -> dict[str, Any]:
    """Loss, norm and labels of each step; of one process those of plain transformers and torch too."""
    packing = (data := Recipe.load(run.recipe).data) is not None and data.packing
    with tempfile.TemporaryDirectory() as name:
        plan, recipe, folder = copied(run, Path(name), one_process=one_process)
        torch.manual_seed(recipe.seed)
        engine = engine_for(plan, recipe, model=build_model(plan, recipe), folder=folder)
        batches = batches_of(plan, data_rank=engine.data_rank, packing=packing)
        steps = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(RATES)]
        found: dict[str, Any] = {
            "loss": [step.loss for step in steps],
            "norm": [step.grad_norm for step in steps],
            "labels": [step.supervised_tokens for step in steps],
            "skipped": [step.skipped for step in steps],
            "rounded": engine.prepared.rounded,
            "finite": all(math.isfinite(number) for step in steps for number in (step.loss, step.grad_norm)),
        }
        rank, clip = engine.rank, engine.prepared.max_norm
        engine.close()
        if one_process:
            torch.manual_seed(recipe.seed)
            given = [batches.step(index) for index in range(len(RATES))]
            losses, norms = zip(*plain_steps(plan, recipe, given, rates=RATES, max_norm=clip), strict=True)
            found |= {"plain_loss": losses, "plain_norm": norms}
    return found if rank == 0 else {}


def main() -> None:
    """Train, and let rank 0 leave what it saw."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="copy_rank", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--alone", action="store_true", help="in one process, and beside it without this toolkit")
    args = parser.parse_args()
    try:
        found = trained(RunFolder(args.run), one_process=args.alone)
    except ToolkitError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    if found:
        args.result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
