"""What the ranks of test_loading run: the model read as its plan divides it, and nothing else."""

from pathlib import Path

import torch

from toolkit.engines.ds import processes
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.pipeline.module import pipeline_module, topology_of
from toolkit.engines.zero.assemble import assemble
from toolkit.models.build import build_model
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.training.memory import begin_memory_watch, peak_resident_bytes


def peak_of_loading(folder: Path) -> int:
    """Bytes that this process grew by at most while it read its part of the weights."""
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    model = build_model(plan, recipe)
    config, strategy = load_ds_config(run, plan), plan.strategy
    if strategy.engine == "zero":
        processes.start(config, plan)
    else:
        processes.join(plan)
    _warm_up()
    before = begin_memory_watch()
    if strategy.engine == "zero":
        assemble(model, config, plan=plan)
    else:
        pipeline_module(model, topology=topology_of(plan), stages=strategy.stages, loss=torch.add)
    return peak_resident_bytes() - before


def _warm_up() -> None:
    """Buffers that the first collective makes are not the model's."""
    torch.distributed.all_reduce(torch.zeros(1 << 20))
