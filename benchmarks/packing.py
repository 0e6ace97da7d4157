"""Supervised tokens per second of packed rows against rows padded to seq_len, and to the longest of a micro-batch.

    python benchmarks/packing.py [--rounds 3] [--rows 256]

Two gloo ranks with ZeRO-2 in fp32 train a LLaMA of 15M random weights on one epoch of the same rows of alpaca, answers
alone, in three ways: so all learn from the same tokens, in as many optimizer steps as whole rows allow. The loop is all
that a run trains with. The epoch's first step is taken once more before it, to warm up, and not counted. Each run has
fresh processes; the ways take turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from alpaca import RANKS, Rates, Step, batches_of, busy_words, emit_run, machine_words, torchrun, write_inputs

PADDED, LONGEST, PACKED = "padded to seq_len", "padded to the longest of the micro-batch", "packed"
BAR = 2.5
"""What packing is to be faster by than rows padded to seq_len."""


def main() -> None:
    """Take turns and compare (plain call), or train as one rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"seq-len": 1024, "rows": 256, "micro-batch": 4, "packed-per-rank": 2, "rounds": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", type=Path, help="folder for model, samples and runs; else they are removed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("way", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("run", nargs="?", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        train(args.run, args.way)
        return
    load = busy_words()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = prepared_runs(args, folder)
        rates: dict[str, list[Rates]] = {way: [] for way in runs}
        for turn in range(args.rounds):
            for way, run in runs.items():
                torchrun(Path(__file__), way, run)
                rates[way].append(Rates.of([Step(*step) for step in json.loads((run / "steps.json").read_text())]))
                told = f"{rates[way][-1].supervised:,.0f} supervised tokens/s"
                print(f"round {turn + 1}, {way}: {told}", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps({way: [vars(one) for one in turns] for way, turns in rates.items()}, indent=2))
    else:
        words = f"{machine_words('torch', 'deepspeed', 'transformers')}; {load}"
        print(table(rates), words, *ratios(rates), sep="\n")


def prepared_runs(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The run folder of each way.

    A packed step has `packed_per_rank` rows per rank, one at a time. The others have so many micro-batches that their
    epoch has as many steps.
    """
    write_inputs(folder, rows=args.rows)

    def emitted(name: str, micro_batch: int, grad_accum: int) -> Path:
        batch = RANKS * micro_batch * grad_accum
        step = {"seq_len": args.seq_len, "global_batch": batch, "micro_batch": micro_batch}
        run = emit_run(folder, name, data={"packing": name == "packed"}, max_steps=1, **step)
        steps = batches_of(run, 0)[0].steps_per_epoch
        return emit_run(folder, name, data={"packing": name == "packed"}, max_steps=1 + steps, **step)

    packed = emitted("packed", 1, args.packed_per_rank)
    rows_per_step = args.rows / batches_of(packed, 0)[0].steps_per_epoch
    grad_accum = max(round(rows_per_step / RANKS / args.micro_batch), 1)
    longest, padded = (emitted(name, args.micro_batch, grad_accum) for name in ("longest", "padded"))
    return {PADDED: padded, LONGEST: longest, PACKED: packed}


def train(folder: Path, way: str) -> None:
    """One epoch; rank 0 leaves what its steps took."""
    from toolkit.checkpoints.shelves import open_shelf
    from toolkit.engines import engine_for
    from toolkit.models.build import build_model
    from toolkit.models.pretrained import load_tokenizer
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.recipe import Recipe
    from toolkit.training.heartbeat import Heartbeat
    from toolkit.training.rows import prepared_data, share_of, training_batches
    from toolkit.training.session import Session

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    data = prepared_data(recipe, load_tokenizer(recipe.model, plan.model))
    engine = engine_for(plan, recipe, model=build_model(plan, recipe), folder=run)
    if engine.rank == 0:
        run.remove_results(all_of_them=True)
    own = training_batches(recipe, data, share=share_of(plan, engine))
    batches = FirstTwice(own, width=plan.workload.seq_len if way == PADDED else None)
    with Heartbeat(run, engine.rank, hang_minutes=recipe.faults.hang_minutes) as heartbeat:
        shelf = open_shelf(run, engine, recipe.checkpoint)
        session = Session(run, plan, recipe, engine, batches, None, identity={}, shelf=shelf)
        records = session.train(heartbeat, step=None, introduction="").records
    positions = [sum(each) for each in zip(*engine.gather(batches.positions), strict=True)]
    if engine.rank == 0:
        steps = [
            (record["step_seconds"], record["supervised_tokens"], record["tokens"], held)
            for record, held in zip(records, positions, strict=True)
        ]
        (folder / "steps.json").write_text(json.dumps(steps[1:]))
    engine.close()


class FirstTwice:
    """A rank's batches with the first step before all of them once more, as wide as it is asked for.

    Args:
        batches: of the run.
        width: tokens of every row; without it the batches' own.
    """

    def __init__(self, batches: Any, *, width: int | None) -> None:
        self._batches, self._width = batches, width
        self.steps_per_epoch = batches.steps_per_epoch
        self.positions: list[int] = []
        """Tokens of each step so far, with padding."""

    def step(self, index: int, counts: Any = None) -> list[dict[str, Any]]:
        """What the loop asks for at the beginning of a step."""
        batches: list[dict[str, Any]] = self._batches.step(max(index - 1, 0), counts)
        if self._width is not None:
            batches = [widened(batch, self._width) for batch in batches]
        self.positions.append(sum(batch["input_ids"].numel() for batch in batches))
        return batches

    def row_numbers(self, index: int) -> list[int]:
        """Rows of the data set in the global batch of a step."""
        numbers: list[int] = self._batches.row_numbers(max(index - 1, 0))
        return numbers


def widened(batch: dict[str, Any], width: int) -> dict[str, Any]:
    """A batch with padding on the right up to `width` tokens."""
    from torch.nn.functional import pad

    fillers = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {name: pad(tensor, (0, width - tensor.shape[1]), value=fillers[name]) for name, tensor in batch.items()}


def table(rates: dict[str, list[Rates]]) -> str:
    """Markdown: medians over the rounds, lowest to highest in brackets."""
    head = f"supervised tokens/s (median of {len(rates[PACKED])}) | all tokens/s | padding | tokens/step"
    lines = [f"| rows | {head} |", "|---" * 5 + "|"]
    for way, turns in rates.items():
        each, all_tokens = sorted(one.supervised for one in turns), statistics.median(one.tokens for one in turns)
        spread = f"{statistics.median(each):,.0f} ({each[0]:,.0f} to {each[-1]:,.0f})"
        lines.append(f"| {way} | {spread} | {all_tokens:,.0f} | {turns[0].padding:.1%} | {turns[0].per_step:,.0f} |")
    return "\n".join(lines)


def ratios(rates: dict[str, list[Rates]]) -> list[str]:
    """Packed over each other way, round by round."""
    lines = []
    for way in (PADDED, LONGEST):
        each = [a.supervised / b.supervised for a, b in zip(rates[PACKED], rates[way], strict=True)]
        bar = f", needs {BAR}" if way == PADDED else ""
        lines.append(f"packed / {way}: {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}){bar}")
    return lines


if __name__ == "__main__":
    main()
