"""Tokens/s of the toolkit's training loop against a hand-written bare DeepSpeed loop, in one run.

Same model, same batches, same ZeRO config, same optimizer; the loops take turns in blocks of steps, so that whatever
else the machine does meets both. Run it with `make benchmark`; it starts its own processes.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RANKS = 2
ROUNDS = 16
STEPS_PER_ROUND = 10
GOAL = 0.97
LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"zero_stage": stage, "tp": 1, "sp": 1, "pp": 1} for stage in range(4)},
    "tp2": {"zero_stage": 1, "tp": 2},
    "pp2": {"pp": 2},
}


def main() -> None:
    """Start the ranks (plain call) or measure (as a rank)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", default="zero2", choices=LAYOUTS)
    parser.add_argument("run", nargs="?", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), LAYOUTS[args.layout])
            torchrun = str(Path(sys.executable).with_name("torchrun"))
            words = [torchrun, f"--nproc-per-node={RANKS}", __file__, folder]
            os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
            sys.exit(os.spawnv(os.P_WAIT, torchrun, words))
    measure(args.run)


def prepare(folder: Path, layout: dict[str, Any]) -> None:
    """A run folder with the demo's model and data."""
    import toolkit
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.settings import GLOBAL_BATCH, SEQ_LEN
    from toolkit.demo.tasks import write_demo_data

    train, _ = write_demo_data(folder / "inputs")
    texts = (text for line in train.open() for text in (json.loads(line)["prompt"], json.loads(line)["completion"]))
    write_demo_model(folder / "inputs" / "model", texts)
    plan = toolkit.plan(
        folder / "inputs" / "model", f"{RANKS}xcpu", seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, **layout
    )
    recipe = toolkit.Recipe.parse(
        {"model": plan.model.name, "workload": plan.workload.model_dump(), "data": {"train": str(train)}},
        source="benchmark",
    )
    toolkit.emit(plan, folder, recipe, overwrite=True)


def measure(folder: Path) -> None:
    """Both loops in turns; rank 0 prints the result as one JSON line."""
    from toolkit.data.loader import GlobalBatches, Share
    from toolkit.data.prepare import prepare as prepare_data
    from toolkit.engines import engine_for
    from toolkit.models.build import build_model
    from toolkit.models.pretrained import load_tokenizer
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.recipe import Recipe
    from toolkit.training.loop import train
    from toolkit.training.telemetry import Telemetry

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    tokenizer = load_tokenizer(recipe.model, plan.model)
    data = prepare_data(recipe.require_data(), tokenizer, seq_len=plan.workload.seq_len, seed=0)
    model = build_model(plan, recipe)
    engine = engine_for(plan, recipe, model=model, folder=run)
    share = Share(plan.strategy.layout.dp, engine.data_rank, plan.strategy.micro_batch, plan.strategy.grad_accum)
    batches = GlobalBatches(data.train, share, seed=0, pad_token_id=tokenizer.pad_token_id)
    bare_step = bare_loop(run, plan, recipe.optimizer.learning_rate)

    rounds: dict[str, list[float]] = {"toolkit": [], "bare": []}
    with Telemetry(run, engine, num_steps=(ROUNDS + 1) * STEPS_PER_ROUND) as telemetry:
        for number in range(ROUNDS + 1):
            steps = _Window(batches, number * STEPS_PER_ROUND)
            started = time.perf_counter()
            train(engine, steps, recipe=recipe, steps=STEPS_PER_ROUND, telemetry=telemetry)
            middle = time.perf_counter()
            for index in range(STEPS_PER_ROUND):
                bare_step(steps.step(index))
            ended = time.perf_counter()
            if number:  # the first round compiles and warms up
                tokens = sum(record["tokens"] for record in telemetry.records[-STEPS_PER_ROUND:])
                rounds["toolkit"].append(tokens / (middle - started))
                rounds["bare"].append(tokens / (ended - middle))
    if engine.rank == 0:
        report(rounds, plan.strategy.words)


class _Window:
    """The steps of one round."""

    def __init__(self, batches: Any, offset: int) -> None:
        self._batches, self._offset = batches, offset
        self.steps_per_epoch = batches.steps_per_epoch

    def step(self, index: int) -> Any:
        return self._batches.step(self._offset + index)


def bare_loop(run: Any, plan: Any, learning_rate: float) -> Callable[[Any], None]:
    """The hand-written loop of the same layout."""
    from bare_loops import pipeline_loop, zero_loop

    model, config = plan.model.name, json.loads(run.ds_config.read_text())
    if plan.strategy.engine == "pipeline":
        return pipeline_loop(model, config, learning_rate, stages=plan.strategy.stages)
    return zero_loop(model, config, learning_rate)


def report(rounds: dict[str, list[float]], strategy: str) -> None:
    """The ratio of each round's pair, and its median."""
    ratios = [ours / bare for ours, bare in zip(rounds["toolkit"], rounds["bare"], strict=True)]
    result = {
        "strategy": strategy,
        "toolkit_tokens_per_second": round(statistics.median(rounds["toolkit"])),
        "bare_tokens_per_second": round(statistics.median(rounds["bare"])),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "goal": GOAL,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
