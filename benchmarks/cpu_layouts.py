"""Predicted against measured on this machine's processors: six layouts, planned, launched and timed.

    python benchmarks/cpu_layouts.py [--hidden 384 --layers 6 ...] [--machine machine.yaml] [--json]

Makes a LLaMA with random weights and rows that fill every sequence, measures the machine (`toolkit calibrate`) unless
it is given, and lets every layout train through `toolkit estimate`, `emit` and `launch`. Layouts take turns, so that
whatever else the machine does meets all of them; the quickest turn of a layout counts, its median step. Ends with exit
status 1 where step time is off by more than 25 %, growth of memory by more than 20 %, or the fastest three are not in
the predicted order. Layouts whose measured times are within the noise of each other count as tied.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS_BOUND, BYTES_BOUND = 0.25, 0.20
TIE = 0.03
"""Layouts whose measured times differ by less are as fast as each other: repetitions of one layout differ as much."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO-0": {"zero_stage": 0},
    "ZeRO-1": {"zero_stage": 1},
    "ZeRO-2": {"zero_stage": 2},
    "ZeRO-3": {"zero_stage": 3},
    "ZeRO-1, accumulation": {"zero_stage": 1, "micro_batch": 1},
    "ZeRO-2, checkpointing": {"zero_stage": 2, "activation_checkpointing": "full"},
}


class Outcome(NamedTuple):
    """One layout, predicted and measured."""

    name: str
    seconds: float
    predicted_seconds: float
    growth: float
    predicted_growth: float
    tokens_per_second: float

    @property
    def seconds_ratio(self) -> float:
        """Predicted over measured step time."""
        return self.predicted_seconds / self.seconds

    @property
    def growth_ratio(self) -> float:
        """Predicted over measured growth of memory."""
        return self.predicted_growth / self.growth


def main() -> None:
    """Prepare, train, compare."""
    args = parse_args()
    from toolkit.emitters.command import CPU_ENVIRONMENT

    os.environ |= CPU_ENVIRONMENT  # transformers imports DeepSpeed, which else says on stdout that it found no GPU
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = measure(args, folder)
    faults = list(faults_of(outcomes))
    if args.json:
        ratios = ({"seconds_ratio": one.seconds_ratio, "growth_ratio": one.growth_ratio} for one in outcomes)
        rows = [{**one._asdict(), **both} for one, both in zip(outcomes, ratios, strict=True)]
        print(json.dumps({"layouts": rows, "faults": faults}, indent=2))
    else:
        print(table(outcomes), *faults or ["all within the bounds"], sep="\n")
    sys.exit(1 if faults else 0)


def parse_args() -> argparse.Namespace:
    """Sizes of the model and of the step, and how long to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"hidden": 384, "layers": 6, "heads": 6, "kv-heads": 3, "ffn": 1024, "vocab": 8192}
    step = {"seq-len": 256, "global-batch": 8, "ranks": 2, "steps": 10, "turns": 2}
    for name, value in {**sizes, **step}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--only", nargs="+", choices=LAYOUTS, metavar="LAYOUT", help=f"of {', '.join(LAYOUTS)}")
    parser.add_argument("--budget", type=float, default=75.0, help="seconds of calibration")
    parser.add_argument("--machine", type=Path, help="file of an earlier `toolkit calibrate`")
    parser.add_argument("--keep", type=Path, help="folder for model, calibration and runs; else they are removed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(args: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Every layout, trained as often as asked, in turns."""
    write_inputs(args, folder)
    machine = args.machine or folder / "machine.yaml"
    if args.machine is None:
        words = ["--ranks", args.ranks, "--precision", args.precision, "--budget", args.budget, "--overwrite"]
        run_toolkit("calibrate", "-o", machine, *words)
    chosen = {name: given for name, given in LAYOUTS.items() if not args.only or name in args.only}
    taken: dict[str, list[Outcome]] = {name: [] for name in chosen}
    for turn in range(args.turns):
        for name, given in chosen.items():
            run = folder / f"{name.replace(', ', '-').lower()}-{turn}"
            taken[name].append(train(args, run, machine, name=name, given=given))
            last = taken[name][-1]
            told = f"{last.seconds:.3f} s ({last.seconds_ratio:.2f}), growth ratio {last.growth_ratio:.2f}"
            print(f"{name}: {told}", file=sys.stderr, flush=True)
    return [
        min(turns, key=lambda one: one.seconds)._replace(growth=max(one.growth for one in turns))
        for turns in taken.values()
    ]


def train(args: argparse.Namespace, run: Path, machine: Path, *, name: str, given: dict[str, Any]) -> Outcome:
    """Plan the layout, train it, compare."""
    import toolkit
    from toolkit.planner.api import estimate
    from toolkit.report.compare import compare_runs

    work = {"seq_len": args.seq_len, "global_batch": args.global_batch, "precision": args.precision}
    layout = {"micro_batch": args.global_batch // args.ranks, **given}
    plan = estimate(run.parent / "model", machine, work=work, strategy=layout)
    recipe = toolkit.Recipe.parse(
        {
            "model": str(run.parent / "model"),
            "workload": plan.workload.model_dump(),
            "data": {"train": str(run.parent / "rows.jsonl")},
            "max_steps": args.steps,
            "trackers": [],
        },
        source="benchmark",
    )
    toolkit.emit(plan, run, recipe, overwrite=True)
    run_toolkit("launch", run, "--overwrite")
    found = {one.name: one for one in compare_runs([run])[0].quantities}
    step, growth = found["step_seconds"], found["resident_growth_bytes"]
    return Outcome(
        name=name,
        seconds=step.measured,
        predicted_seconds=step.predicted.predicted,
        growth=growth.measured,
        predicted_growth=growth.predicted.predicted,
        tokens_per_second=found["tokens_per_second_per_gpu"].measured * args.ranks,
    )


def run_toolkit(*words: object) -> None:
    """A command of the toolkit, shown only where it fails."""
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def write_inputs(args: argparse.Namespace, folder: Path) -> None:
    """A model with random weights, its tokenizer of one token per word, and rows longer than a sequence."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=max(args.seq_len, 64),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.float32,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, args.vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder / "model")
    numbers = torch.randint(3, args.vocab, (4 * args.global_batch, args.seq_len + 8)).tolist()
    rows = ({"text": " ".join(f"w{number}" for number in row)} for row in numbers)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def faults_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What is outside of the bounds, one sentence each."""
    for one in outcomes:
        if not 1 / (1 + SECONDS_BOUND) <= one.seconds_ratio <= 1 + SECONDS_BOUND:
            yield f"{one.name}: step time is predicted {one.seconds_ratio:.2f} times as measured"
        if not 1 / (1 + BYTES_BOUND) <= one.growth_ratio <= 1 + BYTES_BOUND:
            yield f"{one.name}: growth of memory is predicted {one.growth_ratio:.2f} times as measured"
    planned = sorted(outcomes, key=lambda one: one.predicted_seconds)
    for place, one in enumerate(planned[:3]):
        for later in planned[place + 1 :]:
            if later.seconds < one.seconds * (1 - TIE):
                yield f"{one.name} is predicted to be faster than {later.name}, which was"


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, the fastest first."""
    lines = ["| layout | step, s | predicted | ratio | tokens/s | growth, MiB | predicted | ratio |", "|---" * 8 + "|"]
    for one in sorted(outcomes, key=lambda one: one.seconds):
        seconds = f"{one.seconds:.3f} | {one.predicted_seconds:.3f} | {one.seconds_ratio:.2f}"
        growth = f"{one.growth / 2**20:,.0f} | {one.predicted_growth / 2**20:,.0f} | {one.growth_ratio:.2f}"
        lines.append(f"| {one.name} | {seconds} | {one.tokens_per_second:,.0f} | {growth} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
