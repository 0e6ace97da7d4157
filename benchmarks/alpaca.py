"""What benchmarks/trainers.py and benchmarks/packing.py train on: alpaca, and a LLaMA of 15M random weights."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RANKS = 2
SHAPE = {
    "hidden_size": 288,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
"""With the 32,000 tokens of the LLaMA-2 vocabulary 15.2M weights."""
LEARNING_RATE = 3e-4
QUIET = 0.5
"""Load average up to which nothing else is taken to run."""


@dataclass(frozen=True)
class Step:
    """One optimizer step of all ranks."""

    seconds: float
    supervised: int
    """Tokens whose prediction counts in the loss."""
    tokens: int
    """Tokens without padding."""
    positions: int
    """Tokens with padding."""


@dataclass(frozen=True)
class Rates:
    """Of the steps that were measured."""

    supervised: float
    """Supervised tokens per second."""
    tokens: float
    """Tokens per second, padding left out."""
    padding: float
    """Part of what was computed that is padding."""
    per_step: float
    """Tokens of a step, padding left out."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Rates":
        """All they trained on over all the time they took."""
        seconds = sum(step.seconds for step in steps)
        tokens = sum(step.tokens for step in steps)
        return cls(
            supervised=sum(step.supervised for step in steps) / seconds,
            tokens=tokens / seconds,
            padding=1 - tokens / sum(step.positions for step in steps),
            per_step=tokens / len(steps),
        )


def shared_data() -> Path:
    """Folder with alpaca and the tokenizer, whose licences keep them out of the repository; ends where it is not."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOOLKIT_SHARED_DATA", beside))
    if not folder.is_dir():
        print(
            f"{folder}: no such folder; set TOOLKIT_SHARED_DATA to the one with sft/ and tokenizers/", file=sys.stderr
        )
        sys.exit(2)
    return folder


def write_inputs(folder: Path, *, rows: int) -> None:
    """The model with its tokenizer, and some rows of alpaca, always the same."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(shared_data() / "tokenizers" / "llama2")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "model")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, **ids, vocab_size=len(tokenizer), dtype=torch.float32)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    samples = json.loads((shared_data() / "sft" / "alpaca_data.json").read_text(encoding="utf-8"))
    chosen = random.Random(0).sample(samples, min(rows, len(samples)))
    (folder / "alpaca.json").write_text(json.dumps(chosen), encoding="utf-8")


def emit_run(folder: Path, name: str, *, data: dict[str, Any], max_steps: int, **step: Any) -> Path:
    """The folder of a run of the toolkit: ZeRO-2 in fp32, fused AdamW, clipping at 1, a cosine without warm-up.

    Args:
        folder: as `write_inputs` left it.
        name: of the run.
        data: of the recipe, besides the file.
        max_steps: of the run.
        **step: seq_len, global_batch and micro_batch.
    """
    import toolkit

    plan = toolkit.plan(
        folder / "model", f"{RANKS}xcpu", precision="fp32", zero_stage=2, tp=1, sp=1, pp=1,
        activation_checkpointing="none", offload="none", gradient_clipping=1.0, **step,
    )  # fmt: skip
    recipe = {
        "model": str(folder / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(folder / "alpaca.json"), "template": "alpaca", **data},
        "max_steps": max_steps,
        "optimizer": {"learning_rate": LEARNING_RATE},
        "schedule": {"kind": "cosine", "warmup_steps": 0},
        "checkpoint": {"at_end": False},
        "trackers": [],
    }
    run = folder / name
    toolkit.emit(plan, run, toolkit.Recipe.parse(recipe, source="benchmark"), overwrite=True)
    return run


def batches_of(run: Path, rank: int) -> tuple[Any, Any]:
    """The batches of one rank, as the run makes them, and the rows that they are made of."""
    from toolkit.data.loader import GlobalBatches, Share
    from toolkit.models.pretrained import load_tokenizer
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.recipe import Recipe
    from toolkit.training.rows import prepared_data

    plan, recipe = Plan.load(RunFolder(run).plan), Recipe.load(RunFolder(run).recipe)
    tokenizer = load_tokenizer(recipe.model, plan.model)
    data = prepared_data(recipe, tokenizer)
    share = Share(RANKS, rank, plan.strategy.micro_batch, plan.strategy.grad_accum)
    pad = tokenizer.pad_token_id
    return GlobalBatches(data.train, share, seed=recipe.seed, pad_token_id=pad, packs=data.packs), data.train


def positions_of(run: Path, steps: int) -> list[int]:
    """Tokens with padding of each step of a run, over all ranks."""
    ranks = [batches_of(run, rank)[0] for rank in range(RANKS)]
    return [
        sum(batch["input_ids"].numel() for batches in ranks for batch in batches.step(index)) for index in range(steps)
    ]


def torchrun(script: Path, *words: object) -> None:
    """A script on all ranks, in the environment of a training run; its output is shown only where it fails."""
    from toolkit.launcher.processes import environment_for

    start = Path(sys.executable).with_name("torchrun")
    command = [str(start), "--standalone", f"--nproc-per-node={RANKS}", str(script), *map(str, words)]
    done = subprocess.run(command, env=environment_for("cpu"), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def machine_words(*libraries: str) -> str:
    """Processor and releases, for below a table."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    releases = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores, {RANKS} ranks; {releases}"


def busy_words() -> str:
    """What else the machine does before the first run."""
    load = os.getloadavg()[0]
    return f"load average {load:.1f} at the start{', other work ran beside' if load > QUIET else ''}"
