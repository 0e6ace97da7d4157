"""What monitoring costs a step: the same loop with and without it, in turns, in one run of two ranks.

A part of a step so small drowns in what else a machine does, so three things are measured: the step's wall time, as the
median over steps of both kinds; the processor time of the rank's own thread, which waiting is no part of, with its
standard error; and the processor time inside of what monitoring calls, on rank 0, which writes and judges. Without: no
clocks, no hooks that do anything, nothing told and nothing written.

    python benchmarks/monitoring.py --hidden-size 256
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

RANKS, STEPS_PER_TURN = 2, 10
GOAL = 0.005


class Nothing:
    """In place of the engine's clock."""

    def begin(self) -> None:
        """Nothing."""

    def seconds(self) -> dict[str, float]:
        """Nothing."""
        return {}


class Cost:
    """Processor time inside of methods; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, False

    def count(self, owner: Any, *names: str) -> None:
        """Those of one object."""
        for name in names:
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if self._inside:
                return method(*given, **named)
            self._inside, began = True, time.thread_time()
            try:
                return method(*given, **named)
            finally:
                self._inside, self.seconds = False, self.seconds + time.thread_time() - began

        return call


def main() -> None:
    """Start the ranks (plain call) or measure (as a rank)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("run", nargs="?", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), args.hidden_size)
            torchrun = str(Path(sys.executable).with_name("torchrun"))
            words = [torchrun, f"--nproc-per-node={RANKS}", __file__, folder, "--turns", str(args.turns)]
            os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
            sys.exit(os.spawnv(os.P_WAIT, torchrun, words))
    measure(args.run, args.turns)


def prepare(folder: Path, hidden_size: int) -> None:
    """A run folder with a model of the demo's kind and its data."""
    import toolkit
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import write_demo_data

    train, _ = write_demo_data(folder / "inputs")
    texts = (text for line in train.open() for text in (json.loads(line)["prompt"], json.loads(line)["completion"]))
    write_demo_model(folder / "inputs" / "model", texts, hidden_size=hidden_size, num_layers=4)
    model, layout = folder / "inputs" / "model", {"zero_stage": 2, "tp": 1, "sp": 1, "pp": 1, "micro_batch": 4}
    plan = toolkit.plan(model, f"{RANKS}xcpu", seq_len=64, global_batch=16, precision="fp32", **layout)
    recipe = {"model": str(model), "workload": plan.workload.model_dump(), "data": {"train": str(train)}}
    toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="benchmark"), overwrite=True)


def measure(folder: Path, turns: int) -> None:
    """Steps of both kinds in turns; rank 0 prints the result as one JSON line."""
    from toolkit.data.loader import GlobalBatches, Share
    from toolkit.data.prepare import prepare as prepare_data
    from toolkit.engines import engine_for
    from toolkit.models.build import build_model
    from toolkit.models.pretrained import load_tokenizer
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.monitoring import MonitoringConfig
    from toolkit.specs.recipe import Recipe
    from toolkit.training.monitor import Monitor
    from toolkit.training.telemetry import Telemetry

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    tokenizer = load_tokenizer(recipe.model, plan.model)
    data = prepare_data(recipe.require_data(), tokenizer, seq_len=plan.workload.seq_len, seed=0)
    engine: Any = engine_for(plan, recipe, model=build_model(plan, recipe), folder=run)
    share = Share(plan.strategy.layout.dp, engine.data_rank, plan.strategy.micro_batch, plan.strategy.grad_accum)
    batches = GlobalBatches(data.train, share, seed=0, pad_token_id=tokenizer.pad_token_id)
    telemetry = Telemetry(run, engine, num_steps=1)
    recipes = [recipe.model_copy(update={"monitoring": MonitoringConfig(enabled=on)}) for on in (False, True)]
    monitors = [Monitor(run, engine, telemetry, plan=plan, recipe=one, done=0) for one in recipes]
    clocks, cost = [Nothing(), engine._busy], Cost()
    cost.count(engine._busy, "begin", "seconds", "_enter", "_leave")
    cost.count(monitors[True], "tells", "after_step")
    cost.count(monitors[True].time, "begin", "lap")
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    index = 0
    for _ in range(turns):
        for on in (False, True):
            monitor, engine._busy = monitors[on], clocks[on]
            found[on].extend(one_turn(monitor, engine, batches, first=index))
        index += STEPS_PER_TURN
    if engine.rank == 0:
        report(*found, inside=cost.seconds)
    engine.close()


def one_turn(monitor: Any, engine: Any, batches: Any, *, first: int) -> list[list[float]]:
    """Wall and processor time of each of its steps, whose rows are those of the other kind's turn."""
    took = []
    for index in range(first, first + STEPS_PER_TURN):
        began = time.perf_counter(), time.thread_time()
        monitor.time.begin()
        micro_batches = batches.step(index)
        monitor.time.lap("data")
        result = engine.train_step(micro_batches, learning_rate=1e-5, told=monitor.tells())
        monitor.time.lap("train_step")
        monitor.after_step(index + 1, result)
        took.append([time.perf_counter() - began[0], time.thread_time() - began[1]])
    return took


def report(without: list[list[float]], having: list[list[float]], *, inside: float) -> None:
    """The first turns, which warm up, are left out."""
    off, on = (list(zip(*steps[STEPS_PER_TURN:], strict=True)) for steps in (without, having))
    # One step in five tells, and costs more than the others: of the processor's time the mean, not the median.
    pairs = [one - other for one, other in zip(on[1], off[1], strict=True)]
    wall = [statistics.median(times[0]) for times in (off, on)]
    extra, error = statistics.fmean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5
    result = {
        "steps": len(on[0]),
        "step_seconds_without": round(wall[0], 5),
        "step_seconds_with": round(wall[1], 5),
        "wall_overhead": round(wall[1] / wall[0] - 1, 5),
        "processor_seconds": round(extra, 7),
        "processor_overhead": round(extra / wall[0], 5),
        "standard_error": round(error / wall[0], 5),
        "inside_seconds": round(inside / len(having), 7),
        "inside_overhead": round(inside / len(having) / wall[0], 5),
        "goal": GOAL,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
