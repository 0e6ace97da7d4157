"""What less communication costs in learning: the demo's training with compressed gradients and with local steps.

    python benchmarks/communication.py [--only topk local]

Each run is the demo's own (model, samples, recipe) on two CPU ranks with ZeRO-0, one after the other.
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


def trained(folder: Path, way: str) -> dict[str, float]:
    """One run: its losses, its answers, and the bytes that a rank sends per step."""
    wanted = demo_recipe(folder / "inputs", None, None)
    plan = toolkit.plan(
        wanted["model"],
        "2xcpu",
        seq_len=wanted.pop("seq_len"),
        global_batch=wanted.pop("global_batch"),
        zero_stage=0,
        precision="fp32",
    )
    rest = {"workload": plan.workload.model_dump(), "communication": WAYS[way], "trackers": []}
    toolkit.emit(plan, folder / way, toolkit.Recipe.parse({**wanted, **rest}, source="benchmark"))
    toolkit.launch(folder / way)
    summary = json.loads((folder / way / "summary.json").read_text())
    steps = [json.loads(line) for line in (folder / way / "telemetry.jsonl").read_text().splitlines()]
    last = [step["loss"] for step in steps[-50:]]
    # Of two ranks a ring passes each number on once.
    plain = TRAINED_PER_BYTE * summary["trainable_parameters"]
    return {
        "held_out_loss": summary["held_out_loss_after"],
        "last_losses": sum(last) / len(last),
        "exact_match": summary["exact_match_after"],
        "sent_bytes": sum(step.get("sent_bytes", plain) for step in steps) / len(steps),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    table = Table("", "held-out loss", "mean of the last 50 losses", "exact match", "MB sent per step", "less by")
    with tempfile.TemporaryDirectory() as name:
        found = {way: trained(Path(name), way) for way in dict.fromkeys(["all-reduce", *args.only])}
    plain = found["all-reduce"]
    for way, one in found.items():
        table.add_row(
            way,
            f"{one['held_out_loss']:.4f}",
            f"{one['last_losses']:.4f} ({one['last_losses'] / plain['last_losses'] - 1:+.1%})",
            f"{one['exact_match']:.1%}",
            f"{one['sent_bytes'] / 1e6:.3f}",
            f"{plain['sent_bytes'] / one['sent_bytes']:.1f}x",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
