"""What saving costs: how long training stands still with and without a writer in the background, and how long it takes.

    python benchmarks/checkpoints.py

Two ranks train the same model with the same recipe twice and save every few steps; `events.jsonl` says what that took.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

import toolkit
from toolkit.checkpoints.store import Store, altered_file, read_manifest
from toolkit.demo.model import write_demo_model
from toolkit.demo.tasks import demo_rows

STEPS, EVERY = 12, 4
BAR = 0.2
"""The largest part of a synchronous save's stall that an asynchronous one may take."""


def write_inputs(folder: Path, *, hidden: int, layers: int) -> None:
    """A LLaMA with random weights, the demo's tokenizer, and samples."""
    rows = demo_rows()[0][:400]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_demo_model(folder / "model", (row[key] for row in rows for key in ("prompt", "completion")))
    small = json.loads((folder / "model" / "config.json").read_text())
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64, "head_dim": 64}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**small, **sizes, **heads})).save_pretrained(folder / "model")


def measured(folder: Path, *, asynchronous: bool) -> dict[str, Any]:
    """One run: seconds of a step, of a stall, and bytes of a checkpoint."""
    plan = toolkit.plan(
        folder / "model", "2xcpu", seq_len=64, global_batch=8, zero_stage=2, tp=1, micro_batch=4, precision="fp32"
    )
    recipe = {
        "model": str(folder / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(folder / "data.jsonl")},
        "max_steps": STEPS,
        "trackers": [],
        "checkpoint": {"every_steps": EVERY, "at_end": False, "asynchronous": asynchronous},
    }
    run = folder / ("asynchronous" if asynchronous else "synchronous")
    toolkit.emit(plan, run, toolkit.Recipe.parse(recipe, source="benchmark"))
    toolkit.launch(run)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    saves = [event for event in events if event["event"] == "checkpoint"]
    # The first one allocates the memory that the states are copied to.
    stalls = [event["stall_seconds"] for event in saves][1:]
    store = Store(run / "checkpoints")
    newest = store.folder(store.steps()[0])
    started = time.perf_counter()
    assert altered_file(newest, read_manifest(newest), part=0, parts=1) is None
    return {
        "step_seconds": statistics.median(step["step_seconds"] for step in toolkit.load_run(run).steps),
        "stall_seconds": statistics.median(stalls),
        "first_stall_seconds": saves[0]["stall_seconds"],
        "check_seconds": time.perf_counter() - started,
        "bytes_on_disk": sum(path.stat().st_size for path in newest.iterdir()),
        "bytes_per_parameter": saves[0]["num_bytes"] / plan.model.num_params,
    }


def main() -> None:
    """Exit code 1 if saving in the background stalls training for longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), hidden=args.hidden, layers=args.layers)
        found = {mode: measured(Path(name), asynchronous=mode == "asynchronous") for mode in MODES}
    table = Table("", *MODES)
    for key in found[MODES[0]]:
        table.add_row(key, *(f"{found[mode][key]:,.3f}" for mode in MODES))
    share = found["asynchronous"]["stall_seconds"] / found["synchronous"]["stall_seconds"]
    console = Console()
    console.print(table)
    console.print(f"asynchronous / synchronous stall: {share:.2f}, allowed {BAR}")
    sys.exit(0 if share <= BAR else 1)


MODES = ("synchronous", "asynchronous")

if __name__ == "__main__":
    main()
