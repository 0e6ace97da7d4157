"""`make demo`: calibrate, plan, launch, fine-tune, export and compare, on the embedded default or on the user's own."""

import importlib.util
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from toolkit.calibration.calibrate import calibrate
from toolkit.demo import settings
from toolkit.demo.inputs import say_that_there_is_no_gpu, write_demo_inputs
from toolkit.demo.tasks import write_demo_data
from toolkit.emitters import emit
from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.launcher import launch
from toolkit.planner.api import plan
from toolkit.report.plan_table import plan_report
from toolkit.report.show import show_run
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


def run_demo(
    output: Path, *, model: str | None, data: str | None, console: Console, max_steps: int | None = None
) -> None:
    """Run the main job once, from plan to answers, in `output`; an earlier demo there is replaced.

    Args:
        output: run folder.
        model: folder or hub id; None makes a small random LLaMA with a tokenizer of its own.
        data: file, folder or hub id; None makes the embedded instruction set.
        console: where plan and report go.
        max_steps: optimizer steps after which it ends, instead of its epochs.

    Raises:
        ToolkitError: what is wrong with the model, the data or the machine.
    """
    if importlib.util.find_spec("torch") is None:
        raise MachineError(f"the demo trains; {INSTALL_TRAINING}")
    cluster = ClusterSpec.detect()
    say_that_there_is_no_gpu()
    recipe = demo_recipe(output / "inputs", model, data)
    if max_steps is not None:
        recipe.pop("epochs", None)  # those of a model of the user are steps already
        recipe["max_steps"] = max_steps
    if cluster.device.kind == "cpu":
        # A catalog knows GPUs; what a processor does, only a measurement tells.
        console.print(Rule("calibration", align="left"))
        machine = output / "inputs" / "machine.yaml"
        cluster, _ = calibrate(machine, budget_seconds=settings.CALIBRATION_SECONDS, overwrite=True)
    # Any number of GPUs must divide the batch.
    global_batch = math.ceil(recipe.pop("global_batch") / cluster.world_size) * cluster.world_size
    sizes = {"seq_len": recipe.pop("seq_len"), "global_batch": global_batch}
    # Megatron-core is an extra; the demo wants nothing that its installation lacks.
    chosen = plan(recipe["model"], cluster, **sizes, without=("mcore",))
    full = Recipe.parse({**recipe, "workload": chosen.workload.model_dump()}, source="demo")
    emit(chosen, output, full, overwrite=True)

    console.print(Rule("plan", align="left"), plan_report(chosen))
    console.print(Rule("training", align="left"))
    launch(output)
    console.print(Rule("result", align="left"))
    show_run(output, console)


def demo_recipe(inputs: Path, model: str | None, data: str | None) -> dict[str, Any]:
    """The recipe's mapping and its `seq_len`; what the user did not give is made in `inputs`."""
    train, held_out = write_demo_data(inputs) if model else write_demo_inputs(inputs)[1:]
    recipe: dict[str, Any] = {"model": model or str(inputs / "model")}
    if data is None:
        recipe["data"] = {"train": str(train), "held_out": str(held_out)}
    else:
        recipe["data"] = {"train": data, "held_out_fraction": settings.OWN_HELD_OUT_FRACTION}
    return recipe | (_embedded_numbers() if model is None and data is None else _own_numbers(recipe["model"]))


def _embedded_numbers() -> dict[str, Any]:
    return {
        "seq_len": settings.SEQ_LEN,
        "global_batch": settings.GLOBAL_BATCH,
        "epochs": settings.EPOCHS,
        "optimizer": {"learning_rate": settings.LEARNING_RATE, "beta2": settings.BETA2},
        "schedule": {"warmup_steps": settings.WARMUP_STEPS},
        "evaluation": {
            "exact_match_samples": settings.HELD_OUT_SAMPLES,
            "max_new_tokens": settings.MAX_NEW_TOKENS,
        },
    }


def _own_numbers(model: str) -> dict[str, Any]:
    spec = ModelSpec.resolve(model)
    rate = next(rate for limit, rate in settings.OWN_LEARNING_RATES if spec.num_params < limit)
    return {
        "seq_len": min(settings.OWN_SEQ_LEN, spec.max_position_embeddings),
        "global_batch": settings.OWN_GLOBAL_BATCH,
        "max_steps": settings.OWN_MAX_STEPS,
        "optimizer": {"learning_rate": rate},
        "evaluation": {"exact_match_samples": settings.OWN_EXACT_MATCH_SAMPLES},
    }
