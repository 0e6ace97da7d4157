"""Rows of the shared data sets, and what plain transformers makes of a recipe's first batch."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ranks.reference import DTYPES, mean_loss
from toolkit.data.batches import Batch
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import prepare
from toolkit.models.pretrained import load_tokenizer
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """Rows of the shared data set, as the loader of its format wants them."""

    file: str
    rename: dict[str, str]

    def rows(self, folder: Path, count: int) -> list[dict[str, Any]]:
        """The first `count`."""
        path = folder / "sft" / self.file
        if path.suffix == ".json":
            rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            return rows[:count]
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in islice(lines, count)]


SOURCES = {
    "alpaca": Source("alpaca_data.json", {}),
    "gsm8k": Source("gsm8k_train.jsonl", {"prompt": "question", "completion": "answer"}),
}


def write_samples(path: Path, source: str, shared_data: Path, *, count: int = 160) -> Path:
    """Some rows of a source as JSON lines."""
    rows = SOURCES[source].rows(shared_data, count)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def first_batch(recipe: Recipe, cache: Path) -> Batch:
    """The whole global batch of the first step; `cache` is a folder for the prepared rows."""
    tokenizer = load_tokenizer(recipe.model, ModelSpec.resolve(recipe.model))
    work = recipe.workload
    data = prepare(recipe.require_data(), tokenizer, seq_len=work.seq_len, seed=recipe.seed, cache_dir=cache)
    share = Share(1, 0, work.global_batch)
    return GlobalBatches(data.train, share, seed=recipe.seed, pad_token_id=tokenizer.pad_token_id).step(0)[0]


@torch.no_grad()
def one_process_loss(recipe: Recipe, cache: Path) -> float:
    """Plain transformers on the first step's rows."""
    model = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=DTYPES[recipe.workload.precision])
    return mean_loss(model.eval(), first_batch(recipe, cache)).item()
