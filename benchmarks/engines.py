"""The same model and rows by engine zero and by engine mcore: tokens per second and peak memory, in turns.

    python benchmarks/engines.py                      # all GPUs of this machine, a 1B-shape in bf16
    python benchmarks/engines.py --cpu --hidden 256 --layers 4 --heads 4 --kv-heads 2 --ffn 512 --seq-len 256

Makes a LLaMA with random weights and rows that fill every sequence; each layout trains through `toolkit plan` and
`toolkit launch`. The median step of the quickest turn counts. Layouts that the ranks do not divide into are left out.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from cpu_layouts import run_toolkit, write_inputs

import toolkit
from toolkit.errors import SpecError

LAYOUTS: dict[str, dict[str, Any]] = {
    "zero, ZeRO-1": {"engine": "zero", "zero_stage": 1, "tp": 1, "sp": 1},
    "zero, ZeRO-3": {"engine": "zero", "zero_stage": 3, "tp": 1, "sp": 1},
    "zero, ZeRO-1, tp 2": {"engine": "zero", "zero_stage": 1, "tp": 2, "sp": 1},
    "mcore, dp": {"engine": "mcore", "tp": 1, "pp": 1, "cp": 1},
    "mcore, tp 2": {"engine": "mcore", "tp": 2, "pp": 1, "cp": 1},
    "mcore, pp 2": {"engine": "mcore", "tp": 1, "pp": 2, "vpp": 1, "cp": 1},
    "mcore, pp 2, vpp 2": {"engine": "mcore", "tp": 1, "pp": 2, "vpp": 2, "cp": 1},
    "mcore, cp 2": {"engine": "mcore", "tp": 1, "pp": 1, "cp": 2},
}
WARM_UP = 3
"""Steps that do not count."""


class Outcome(NamedTuple):
    """One turn of a layout."""

    layout: str
    tokens_per_second: float
    step_seconds: float
    peak_bytes: int
    """Of the fullest rank: allocated on a GPU, resident on a CPU."""
    losses: list[float]


def main() -> None:
    """Make the inputs, train, print a table."""
    args = parse_args()
    if args.cpu:
        from toolkit.emitters.command import CPU_ENVIRONMENT

        os.environ |= CPU_ENVIRONMENT
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(args, folder)
        best = measured(args, folder)
    if args.json:
        print(json.dumps([one._asdict() for one in best], indent=2))
        return
    print("| layout | tokens/s | step, s | peak, GiB | loss of the last step |", "|---" * 5 + "|", sep="\n")
    for one in best:
        rest = f"{one.step_seconds:.3f} | {one.peak_bytes / 2**30:.2f} | {one.losses[-1]:.5f}"
        print(f"| {one.layout} | {one.tokens_per_second:,.0f} | {rest} |")


def parse_args() -> argparse.Namespace:
    """Sizes of the model and of the step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"hidden": 2048, "layers": 16, "heads": 32, "kv-heads": 8, "ffn": 8192, "vocab": 32_000}
    step = {"seq-len": 2048, "global-batch": 16, "micro-batch": 2, "steps": 12, "turns": 2, "ranks": 2}
    for name, value in {**sizes, **step}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--cpu", action="store_true", help="ranks on processors, in fp32")
    parser.add_argument("--only", nargs="+", choices=LAYOUTS, metavar="LAYOUT", help=f"of {'; '.join(LAYOUTS)}")
    parser.add_argument("--keep", type=Path, help="folder for model and runs; else they are removed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measured(args: argparse.Namespace, folder: Path) -> list[Outcome]:
    """The quickest turn of every layout that the ranks divide into."""
    best: dict[str, Outcome] = {}
    for turn in range(args.turns):
        for name, layout in LAYOUTS.items():
            if args.only and name not in args.only:
                continue
            try:
                one = train(args, folder / f"{name.replace(', ', '-').replace(' ', '')}-{turn}", name, layout)
            except SpecError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            print(f"{name}: {one.tokens_per_second:,.0f} tokens/s", file=sys.stderr, flush=True)
            best[name] = min(one, best.get(name, one), key=lambda outcome: outcome.step_seconds)
    return list(best.values())


def train(args: argparse.Namespace, run: Path, name: str, layout: dict[str, Any]) -> Outcome:
    """Plan, launch, read."""
    model = run.parent / "model"
    plan = toolkit.plan(
        model,
        f"{args.ranks}xcpu" if args.cpu else None,
        seq_len=args.seq_len,
        global_batch=args.global_batch,
        precision="fp32" if args.cpu else "bf16",
        micro_batch=args.micro_batch,
        activation_checkpointing="none",
        **layout,
    )
    recipe = {
        "model": str(model),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(run.parent / "rows.jsonl")},
        "max_steps": args.steps,
        "trackers": [],
    }
    toolkit.emit(plan, run, toolkit.Recipe.parse(recipe, source="benchmark"), overwrite=True)
    run_toolkit("launch", run, "--overwrite")
    found = toolkit.load_run(run)
    counted = found.steps[WARM_UP:]
    seconds = statistics.median(step["step_seconds"] for step in counted)
    peak = "peak_rss_bytes" if args.cpu else "peak_allocated_bytes"
    return Outcome(
        layout=name,
        tokens_per_second=args.global_batch * args.seq_len / seconds,
        step_seconds=seconds,
        peak_bytes=max(step[peak] for step in found.steps),
        losses=[step["loss"] for step in found.steps],
    )


if __name__ == "__main__":
    main()
