"""`make demo`: plan, launch, fine-tune, export and compare, on the embedded default or on the user's own."""

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from toolkit.demo import settings
from toolkit.demo.tasks import write_demo_data
from toolkit.emitters import emit
from toolkit.launcher import launch
from toolkit.planner.api import plan
from toolkit.report.plan_table import plan_report
from toolkit.report.plots import draw
from toolkit.report.run_table import run_report
from toolkit.report.runs import load_run
from toolkit.run_folder import RunFolder
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


def run_demo(output: Path, *, model: str | None, data: str | None, console: Console) -> None:
    """Run the main job once, from plan to answers, in `output`; an earlier demo there is replaced.

    Args:
        output: run folder.
        model: folder or hub id; None makes a small random LLaMA with a tokenizer of its own.
        data: file, folder or hub id; None makes the embedded instruction set.
        console: where plan and report go.

    Raises:
        ToolkitError: what is wrong with the model, the data or the machine.
    """
    cluster = ClusterSpec.detect()
    recipe = _embedded(output / "inputs") if model is None and data is None else _own(model, data, output / "inputs")
    # Any number of GPUs must divide the batch.
    global_batch = math.ceil(recipe.pop("global_batch") / cluster.world_size) * cluster.world_size
    chosen = plan(recipe["model"], cluster, seq_len=recipe.pop("seq_len"), global_batch=global_batch)
    full = Recipe.parse({**recipe, "workload": chosen.workload.model_dump()}, source="demo")
    emit(chosen, output, full, overwrite=True)

    console.print(Rule("plan", align="left"), plan_report(chosen))
    console.print(Rule("training", align="left"))
    launch(output, overwrite=True)
    run = load_run(output)
    console.print(Rule("result", align="left"), run_report(run))
    console.print(*[f"drawn:    {path}" for path in draw(run)], sep="\n", highlight=False)


def _embedded(folder: Path) -> dict[str, Any]:
    """The default: data and model made on the spot, and the recipe that fits them."""
    from toolkit.demo.model import write_demo_model  # needs the training half

    train, held_out = write_demo_data(folder)
    write_demo_model(folder / "model", _texts(train))
    return {
        "model": str(folder / "model"),
        "seq_len": settings.SEQ_LEN,
        "global_batch": settings.GLOBAL_BATCH,
        "data": {"train": str(train), "held_out": str(held_out)},
        "epochs": settings.EPOCHS,
        "optimizer": {"learning_rate": settings.LEARNING_RATE},
        "schedule": {"warmup_ratio": settings.WARMUP_RATIO},
        "evaluation": {
            "exact_match_samples": settings.HELD_OUT_SAMPLES,
            "max_new_tokens": settings.MAX_NEW_TOKENS,
        },
    }
