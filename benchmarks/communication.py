"""What less communication costs in learning: the demo's training with compressed gradients and with local steps.

    python benchmarks/communication.py [--only topk local] [--full-steps 70] [--rate 2] [--seed 1]
    python benchmarks/communication.py --model stories260K --data gsm8k_train.jsonl [--steps 200]
    python benchmarks/communication.py --text tinyshakespeare.txt --steps 300

Each run is the demo's own (`make demo`, with MODEL= and DATA= if given) on two CPU ranks with ZeRO-0, one after the
other. With --text a LLaMA of width 256 with random weights and a tokenizer of its own learns plain text.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import toolkit
from toolkit.demo.run import demo_recipe

WAYS: dict[str, dict[str, Any]] = {
    "all-reduce": {},
    "fp16": {"compression": "fp16"},
    "powersgd": {"compression": "powersgd"},
    "topk": {"compression": "topk"},
    "local": {"local_steps": 8},
    "diloco": {"local_steps": 8, "outer_learning_rate": 0.7, "outer_momentum": 0.9},
}
TRAINED_PER_BYTE = 4.0
"""Bytes of a gradient in fp32."""
LAST = 50
"""Steps whose mean loss is compared."""
PIECE, PIECE_TOKENS, PIECES = 180, 64, 8
"""Characters of a row of plain text, tokens after which it is cut, rows per step."""
LAYERS = 4
"""Of the model that learns it."""


def communication(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Of the recipe."""
    kind, sends = WAYS[way].get("compression"), dict(WAYS[way])
    if kind in ("powersgd", "topk"):
        sends["full_steps"] = args.full_steps
    if kind == "powersgd":
        sends["rank"] = args.rank
    return sends


def of_text(folder: Path, text: Path) -> tuple[str, str]:
    """A model with random weights, and its rows."""
    from toolkit.demo.inputs import say_that_there_is_no_gpu

    say_that_there_is_no_gpu()
    from toolkit.demo.model import write_demo_model

    words = text.read_text(encoding="utf-8")
    pieces = [words[start : start + PIECE] for start in range(0, len(words), PIECE)]
    write_demo_model(folder / "model", pieces, hidden_size=256, num_layers=LAYERS)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces), encoding="utf-8")
    return str(folder / "model"), str(rows)


def recipe(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The demo's, with its `seq_len` and `global_batch`, as far as nothing else is asked for."""
    if args.text:
        wanted = demo_recipe(folder, *of_text(folder, args.text))
        wanted |= {"seq_len": PIECE_TOKENS, "global_batch": PIECES, "evaluation": {}}
    else:
        wanted = demo_recipe(folder, args.model, args.data)
    wanted["optimizer"]["learning_rate"] *= args.rate
    if args.steps:
        wanted.pop("epochs", None)
        wanted["max_steps"] = args.steps
    return wanted


def trained(args: argparse.Namespace, folder: Path, way: str) -> dict[str, float]:
    """One run: its losses, its answers, and the bytes that a rank sends per step."""
    wanted = recipe(args, folder / "inputs")
    plan = toolkit.plan(
        wanted["model"],
        "2xcpu",
        seq_len=wanted.pop("seq_len"),
        global_batch=wanted.pop("global_batch"),
        zero_stage=0,
        precision="fp32",
    )
    sends = communication(way, args)
    rest = {"workload": plan.workload.model_dump(), "communication": sends, "trackers": [], "seed": args.seed}
    toolkit.emit(plan, folder / way, toolkit.Recipe.parse({**wanted, **rest}, source="benchmark"))
    toolkit.launch(folder / way)
    summary = json.loads((folder / way / "summary.json").read_text())
    steps = [json.loads(line) for line in (folder / way / "telemetry.jsonl").read_text().splitlines()]
    last = [step["loss"] for step in steps[-LAST:]]
    # Of two ranks a ring passes each number on once.
    plain = TRAINED_PER_BYTE * summary["trainable_parameters"]
    return {
        "held_out_loss": summary["held_out_loss_after"],
        "last_losses": sum(last) / len(last),
        "exact_match": summary["exact_match_after"] or 0.0,
        "sent_bytes": sum(step.get("sent_bytes", plain) for step in steps) / len(steps),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--model", help="folder or hub id; the demo's own without it")
    parser.add_argument("--data", help="file, folder or hub id; the demo's own without it")
    parser.add_argument("--text", type=Path, help="file of plain text, instead of both")
    parser.add_argument("--steps", type=int, help="instead of the demo's")
    parser.add_argument("--rank", type=int, help="of powersgd; by the size of each matrix without it")
    parser.add_argument("--full-steps", type=int, default=0, help="of powersgd and topk")
    parser.add_argument("--rate", type=float, default=1.0, help="times the demo's learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the samples")
    args = parser.parse_args()
    table = Table("", "held-out loss", f"mean of the last {LAST} losses", "exact match", "MB sent per step", "less by")
    with tempfile.TemporaryDirectory() as name:
        found = {way: trained(args, Path(name), way) for way in dict.fromkeys(["all-reduce", *args.only])}
    plain = found["all-reduce"]
    for way, one in found.items():
        table.add_row(
            way,
            f"{one['held_out_loss']:.4f} ({one['held_out_loss'] / plain['held_out_loss'] - 1:+.1%})",
            f"{one['last_losses']:.4f} ({one['last_losses'] / plain['last_losses'] - 1:+.1%})",
            f"{one['exact_match']:.1%}",
            f"{one['sent_bytes'] / 1e6:.3f}",
            f"{plain['sent_bytes'] / one['sent_bytes']:.1f}x",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
