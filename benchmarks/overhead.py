"""Tokens/s of the toolkit's training loop against a hand-written bare DeepSpeed loop, in one run.

Same model, same batches, same ZeRO config, same optimizer; the loops take turns in blocks of steps, so that whatever
else the machine does meets both. The toolkit's is all that a run trains with: telemetry, signals, heartbeat, watchdog.
Every token counts in the loss: of others the toolkit computes no logits and a bare loop does, which no loop costs.
Run it with `make benchmark`; it starts its own processes.
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
        {
            "model": plan.model.name,
            "workload": plan.workload.model_dump(),
            "data": {"train": str(train)},
            "max_steps": (ROUNDS + 1) * STEPS_PER_ROUND,
            "checkpoint": {"at_end": False},
            "trackers": [],
        },
        source="benchmark",
    )
    toolkit.emit(plan, folder, recipe, overwrite=True)


def measure(folder: Path) -> None:
    """Both loops in turns; rank 0 prints the result as one JSON line."""
    from toolkit.checkpoints.shelves import open_shelf
    from toolkit.data.loader import GlobalBatches, Share
    from toolkit.data.prepare import prepare as prepare_data
    from toolkit.engines import engine_for
    from toolkit.models.build import build_model
    from toolkit.models.pretrained import load_tokenizer
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.recipe import Recipe
    from toolkit.training.heartbeat import Heartbeat
    from toolkit.training.session import Session

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    tokenizer = load_tokenizer(recipe.model, plan.model)
    data = prepare_data(recipe.require_data(), tokenizer, seq_len=plan.workload.seq_len, seed=0)
    model = build_model(plan, recipe)
    engine = engine_for(plan, recipe, model=model, folder=run)
    share = Share(plan.strategy.layout.dp, engine.data_rank, plan.strategy.micro_batch, plan.strategy.grad_accum)
    batches = GlobalBatches(data.train, share, seed=0, pad_token_id=tokenizer.pad_token_id)
    turns = Turns(batches, bare_loop(run, plan, recipe.optimizer.learning_rate))
    with Heartbeat(run, engine.rank, hang_minutes=recipe.faults.hang_minutes) as heartbeat:
        shelf = open_shelf(run, engine, recipe.checkpoint)
        session = Session(run, plan, recipe, engine, turns, None, identity={}, shelf=shelf)
        records = session.train(heartbeat, step=None, introduction="").records
        turns.bare_turn(len(records))
    if engine.rank == 0:
        report(turns.seconds, [record["tokens"] for record in records], plan.strategy.words)


class Turns:
    """The toolkit's batches; after every round of its loop the bare loop takes the same ones.

    Args:
        batches: of both.
        bare_step: one step of the bare loop.
    """

    def __init__(self, batches: Any, bare_step: Callable[[Any], None]) -> None:
        self._batches, self._bare_step = batches, bare_step
        self._began = 0.0
        self.steps_per_epoch = batches.steps_per_epoch
        self.row_numbers = batches.row_numbers
        self.seconds: dict[str, list[float]] = {"toolkit": [], "bare": []}

    def step(self, index: int, counts: Any = None) -> Any:
        """What the toolkit's loop asks for at the beginning of a step."""
        if index % STEPS_PER_ROUND == 0:
            self.bare_turn(index)
        return self._supervised(index)

    def bare_turn(self, index: int) -> None:
        """The bare loop's turn on the round that ends before step `index`."""
        now = time.perf_counter()
        if index:
            self.seconds["toolkit"].append(now - self._began)
            for earlier in range(index - STEPS_PER_ROUND, index):
                self._bare_step(self._supervised(earlier))
            self.seconds["bare"].append(time.perf_counter() - now)
        self._began = time.perf_counter()

    def _supervised(self, index: int) -> Any:
        return [{**batch, "labels": batch["input_ids"]} for batch in self._batches.step(index)]


def bare_loop(run: Any, plan: Any, learning_rate: float) -> Callable[[Any], None]:
    """The hand-written loop of the same layout."""
    from bare_loops import pipeline_loop, zero_loop

    model, config = plan.model.name, json.loads(run.ds_config.read_text())
    if plan.strategy.engine == "pipeline":
        return pipeline_loop(model, config, learning_rate, stages=plan.strategy.stages)
    return zero_loop(model, config, learning_rate)


def report(seconds: dict[str, list[float]], tokens: list[int], strategy: str) -> None:
    """The ratio of each round's pair, and its median; the first round, which compiles and warms up, is left out."""
    starts = range(STEPS_PER_ROUND, len(tokens), STEPS_PER_ROUND)
    rounds = {
        name: [sum(tokens[at : at + STEPS_PER_ROUND]) / took for at, took in zip(starts, times[1:], strict=True)]
        for name, times in seconds.items()
    }
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
