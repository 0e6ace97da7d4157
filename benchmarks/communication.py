"""What less communication costs in learning: the demo's training with compressed gradients and with local steps.

    python benchmarks/communication.py [--only topk local] [--full-steps 70] [--rate 2] [--seed 1]
    python benchmarks/communication.py --model stories260K --data gsm8k_train.jsonl

Each run is the demo's own (`make demo`, with MODEL= and DATA= if given) on two CPU ranks with ZeRO-0, one after the
other.
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


def communication(way: str, full_steps: int) -> dict[str, Any]:
    """Of the recipe."""
    has_full_steps = WAYS[way].get("compression") in ("powersgd", "topk")
    return {**WAYS[way], **({"full_steps": full_steps} if has_full_steps else {})}


def trained(args: argparse.Namespace, folder: Path, way: str) -> dict[str, float]:
    """One run: its losses, its answers, and the bytes that a rank sends per step."""
    wanted = demo_recipe(folder / "inputs", args.model, args.data)
    wanted["optimizer"]["learning_rate"] *= args.rate
    plan = toolkit.plan(
        wanted["model"],
        "2xcpu",
        seq_len=wanted.pop("seq_len"),
        global_batch=wanted.pop("global_batch"),
        zero_stage=0,
        precision="fp32",
    )
    sends = communication(way, args.full_steps)
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
