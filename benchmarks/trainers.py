"""Supervised tokens per second of the toolkit, of TRL's SFTTrainer and of transformers' Trainer, side by side.

    python benchmarks/trainers.py [--rounds 3] [--steps 20] [--only toolkit trl ...]

All train the same LLaMA of 15M random weights on the same rows of alpaca in the same order, answers alone: two gloo
ranks, ZeRO-2 by the same ds_config.json, fp32, torch's fused AdamW, clipping at 1, a cosine, no checkpoint, no
evaluation. Each puts the rows of a global batch together in its own way; `transformers-same` is given them in the
toolkit's micro-batches. Each run has fresh processes; the trainers take turns, so that whatever else the machine does
meets all of them. TRL is looked for on PYTHONPATH too, and left out where it is not.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alpaca import (
    LEARNING_RATE,
    RANKS,
    Rates,
    Step,
    batches_of,
    busy_words,
    emit_run,
    machine_words,
    positions_of,
    torchrun,
)
from alpaca import write_inputs as write_model_and_samples
from cpu_layouts import run_toolkit

LOG_EVERY = 10
LIBRARIES = ("torch", "deepspeed", "transformers", "accelerate")
INSTALL_TRL = "pip install --no-deps --target trl_lib trl==1.16.0 && export PYTHONPATH=$PWD/trl_lib:$PYTHONPATH"


class Case(NamedTuple):
    """One row of the table."""

    trainer: str
    run: str
    """Folder of the run: rows as each trainer puts them together, packed, or in the toolkit's own micro-batches."""
    against: str
    """The toolkit's row that it is compared with."""


CASES = {
    "toolkit": Case("toolkit", "padded", "toolkit"),
    "trl": Case("trl", "padded", "toolkit"),
    "transformers": Case("transformers", "padded", "toolkit"),
    "transformers-same": Case("transformers", "same", "toolkit"),
    "toolkit-packed": Case("toolkit", "packed", "toolkit-packed"),
    "trl-packed": Case("trl", "packed", "toolkit-packed"),
}


@dataclass(frozen=True)
class Outcome:
    """One run."""

    rates: Rates
    first_loss: float
    last_loss: float
    """Mean over the steps of `window`."""
    peaks: list[int]
    """Resident bytes of each rank."""


def main() -> None:
    """Prepare, take turns, compare."""
    args = parse_args()
    cases, load = chosen_cases(args.only), busy_words()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(args, folder)
        outcomes: dict[str, list[Outcome]] = {name: [] for name in cases}
        for turn in range(args.rounds):
            for name, case in cases.items():
                run = toolkit_run if case.trainer == "toolkit" else peer_run
                outcomes[name].append(run(args, folder, case))
                last = outcomes[name][-1]
                told = f"{last.rates.supervised:,.0f} supervised tokens/s, loss {last.first_loss:.6f}"
                print(f"round {turn + 1}, {name}: {told}", file=sys.stderr, flush=True)
    libraries = [*LIBRARIES, *(["trl"] if any(case.trainer == "trl" for case in cases.values()) else [])]
    words = f"{machine_words(*libraries)}; {load}"
    if args.json:
        print(json.dumps({name: [asdict(one) for one in turns] for name, turns in outcomes.items()}, indent=2))
    else:
        print(table(outcomes, args), words, *ratios(outcomes), sep="\n")


def parse_args() -> argparse.Namespace:
    """Sizes of a step, and how long to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"seq-len": 512, "micro-batch": 4, "grad-accum": 2, "packed-micro-batch": 1}
    for name, value in {**sizes, "steps": 20, "warmup": 3, "rounds": 3, "rows": 4000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--keep", type=Path, help="folder for model, samples and runs; else they are removed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def chosen_cases(only: list[str] | None) -> dict[str, Case]:
    """Those that were asked for and can run here."""
    cases = {name: case for name, case in CASES.items() if not only or name in only}
    if importlib.util.find_spec("trl") is None and any(case.trainer == "trl" for case in cases.values()):
        print(f"TRL is not installed, its rows are left out; to have them: {INSTALL_TRL}", file=sys.stderr)
        cases = {name: case for name, case in cases.items() if case.trainer != "trl"}
    if not cases:
        sys.exit(2)
    return cases


def write_inputs(args: argparse.Namespace, folder: Path) -> None:
    """Model and samples, the toolkit's runs, and what the others need to do the same."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    write_model_and_samples(folder, rows=args.rows)
    steps = args.warmup + args.steps
    for name in ("padded", "packed"):
        packing = name == "packed"
        micro = args.packed_micro_batch if packing else args.micro_batch
        step = {"seq_len": args.seq_len, "global_batch": RANKS * micro * args.grad_accum, "micro_batch": micro}
        run = emit_run(folder, name, data={"packing": packing}, max_steps=steps, **step)
        batches, rows = batches_of(run, 0)
        if steps > batches.steps_per_epoch:
            raise SystemExit(f"{steps} steps take more than the {args.rows} rows; give more --rows, or fewer --steps")
        settings = {
            "model": str(folder / "model"),
            "ds_config": str(run / "ds_config.json"),
            "ranks": RANKS,
            "seq_len": args.seq_len,
            "micro_batch": micro,
            "grad_accum": args.grad_accum,
            "packing": packing,
            "max_steps": steps,
            "learning_rate": LEARNING_RATE,
            "log_every": LOG_EVERY,
        }
        taken = rows.select_columns(["input_ids", "labels"])
        orders = {name: list(range(len(taken)))}
        if not packing:
            orders = {name: (given := given_order(batches, steps)), "same": divided_order(given, taken, args)}
        for of, order in orders.items():
            (folder / of).mkdir(exist_ok=True)
            chosen = str(folder / of / "rows")
            Dataset.from_dict(taken.select(order).to_dict()).save_to_disk(chosen)
            (folder / of / "settings.json").write_text(json.dumps({**settings, "rows": chosen}))


def given_order(batches: Any, steps: int) -> list[int]:
    """Rows in the order in which the toolkit takes global batches."""
    return [row for index in range(steps) for row in batches.row_numbers(index)]


def divided_order(order: list[int], rows: Any, args: argparse.Namespace) -> list[int]:
    """The same, so that ranks that take micro-batches in turns take those of the toolkit."""
    from toolkit.data.balance import divided

    size, lengths = RANKS * args.micro_batch * args.grad_accum, [len(ids) for ids in rows["input_ids"]]
    found = []
    for start in range(0, len(order), size):
        step = order[start : start + size]
        share = {"dp": RANKS, "micro_batch": args.micro_batch, "grad_accum": args.grad_accum}
        micros = divided([lengths[row] for row in step], **share)
        found += [step[place] for ranks in micros for own in ranks for place in own]
    return found


def toolkit_run(args: argparse.Namespace, folder: Path, case: Case) -> Outcome:
    """`toolkit launch`, as anybody starts it; its own records say what was measured."""
    run, count = folder / case.run, args.warmup + args.steps
    run_toolkit("launch", run, "--overwrite")
    records = [json.loads(line) for line in (run / "telemetry.jsonl").read_text().splitlines()]
    steps = [
        Step(record["step_seconds"], record["supervised_tokens"], record["tokens"], positions)
        for record, positions in zip(records, positions_of(run, count), strict=True)
    ]
    losses = [record["loss"] for record in records]
    memory = json.loads((run / "summary.json").read_text())["memory_by_rank"]
    peaks = [rank["peak_rss_bytes"] for rank in memory]
    return Outcome(Rates.of(steps[args.warmup :]), losses[0], statistics.fmean(losses[slice(*window(count))]), peaks)


def window(steps: int) -> tuple[int, int]:
    """The steps (from 0, the end left out) of the mean that the other trainers log last; they log the first alone."""
    last = steps // LOG_EVERY * LOG_EVERY
    return (max(last - LOG_EVERY, 1), last) if last else (0, 1)


def peer_run(args: argparse.Namespace, folder: Path, case: Case) -> Outcome:
    """The same by another trainer."""
    run = folder / case.run
    torchrun(Path(__file__).with_name("peers.py"), case.trainer, run)
    ranks: list[dict[str, Any]] = [json.loads((run / f"{rank}.json").read_text()) for rank in range(RANKS)]
    ends = ranks[0]["ends"]
    of_ranks = zip(*(one["steps"] for one in ranks), strict=True)
    counts = [[sum(each) for each in zip(*step, strict=True)] for step in of_ranks]
    steps = [
        Step(ends[index] - ends[index - 1], *counts[index]) for index in range(args.warmup, args.warmup + args.steps)
    ]
    logged = ranks[0]["logged"]
    return Outcome(Rates.of(steps), logged[0][1], logged[-1][1], [one["peak"] for one in ranks])


def table(outcomes: dict[str, list[Outcome]], args: argparse.Namespace) -> str:
    """Markdown: medians over the rounds, lowest to highest in brackets."""
    first, last = window(args.warmup + args.steps)
    head = f"supervised tokens/s (of {args.steps} steps, median of {args.rounds}) | all tokens/s | padding"
    losses = f"loss of step 1 | of steps {first + 1} to {last}"
    lines = [f"| trainer | {head} | tokens/step | {losses} | peak RSS per rank, MiB |"]
    lines.append("|---" * 8 + "|")
    for name, turns in outcomes.items():
        rates = sorted(one.rates.supervised for one in turns)
        spread = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        tokens, one = statistics.median(turn.rates.tokens for turn in turns), turns[-1]
        of_ranks = zip(*(turn.peaks for turn in turns), strict=True)
        peaks = ", ".join(f"{max(of_rank) / 2**20:,.0f}" for of_rank in of_ranks)
        losses = f"{one.first_loss:.5f} | {one.last_loss:.5f}"
        held = f"{one.rates.padding:.1%} | {one.rates.per_step:,.0f}"
        lines.append(f"| {name} | {spread} | {tokens:,.0f} | {held} | {losses} | {peaks} |")
    return "\n".join(lines)


def ratios(outcomes: dict[str, list[Outcome]]) -> list[str]:
    """The toolkit's rate over each other trainer's, round by round."""
    lines = []
    for name, turns in outcomes.items():
        ours = CASES[name].against
        if name == ours or ours not in outcomes:
            continue
        each = [a.rates.supervised / b.rates.supervised for a, b in zip(outcomes[ours], turns, strict=True)]
        lines.append(f"{ours} / {name}: {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")
    return lines


if __name__ == "__main__":
    main()
