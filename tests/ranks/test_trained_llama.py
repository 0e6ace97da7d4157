"""A trained LLaMA (260K weights, tied, grouped-query) on real instructions, from `toolkit.plan` to generated text.

The first step's loss was measured within 1.2e-6 of plain transformers in fp32 and in bf16.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import toolkit
from procs import run_ranks
from ranks.reference import DTYPES, mean_loss
from ranks.zero_runs import finetune
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import prepare
from toolkit.models.pretrained import load_tokenizer
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe

pytestmark = pytest.mark.ranks

SEQ_LEN, GLOBAL_BATCH, NUM_STEPS = 256, 8, 15


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


def in_warm_ranks(run: Path) -> None:
    """As `toolkit.launch`, without 15 s of imports."""
    run_ranks(finetune, 2, run, timeout_s=120)


@pytest.mark.parametrize(
    ("precision", "stage", "source", "start"),
    [
        ("fp32", 2, "alpaca", in_warm_ranks),
        ("fp32", 3, "gsm8k", toolkit.launch),
        ("bf16", 2, "gsm8k", toolkit.launch),
        ("bf16", 3, "alpaca", in_warm_ranks),
    ],
)
def test_trains_as_one_process_would(
    tmp_path: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    stage: int,
    source: str,
    start: Callable[[Path], object],
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base = shared_data / "models" / f"stories260K-hf-{precision}"
    samples = tmp_path / "samples.jsonl"
    rows = SOURCES[source].rows(shared_data, 160)
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = write_recipe(tmp_path / "run", base, samples, precision=precision, stage=stage, source=source)

    start(tmp_path / "run")

    run = toolkit.load_run(tmp_path / "run")
    first = one_process_loss(recipe, base, tmp_path / "prepared")
    losses = [step["loss"] for step in run.steps]
    assert losses[0] == pytest.approx(first, abs=1e-4)
    assert sum(losses[-5:]) / 5 < losses[0] - 0.2
    answers_something(run.export, DTYPES[precision])


def write_recipe(folder: Path, base: Path, samples: Path, *, precision: str, stage: int, source: str) -> Recipe:
    """Plan and emit into `folder`."""
    plan = toolkit.plan(
        base,
        "2xcpu",
        seq_len=SEQ_LEN,
        global_batch=GLOBAL_BATCH,
        precision=precision,
        zero_stage=stage,
        micro_batch=2,
    )
    wanted = {
        "model": str(base),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(samples), "columns": SOURCES[source].rename},
        "max_steps": NUM_STEPS,
        "optimizer": {"learning_rate": 2e-3},
        "trackers": [],
    }
    recipe = Recipe.parse(wanted, source="test")
    toolkit.emit(plan, folder, recipe)
    return recipe


@torch.no_grad()
def one_process_loss(recipe: Recipe, base: Path, cache: Path) -> float:
    """Plain transformers on the first step's rows."""
    tokenizer = load_tokenizer(str(base), ModelSpec.resolve(base))
    data = prepare(recipe.require_data(), tokenizer, seq_len=SEQ_LEN, seed=recipe.seed, cache_dir=cache)
    batches = GlobalBatches(
        data.train, Share(1, 0, GLOBAL_BATCH), seed=recipe.seed, pad_token_id=tokenizer.pad_token_id
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[recipe.workload.precision])
    return mean_loss(model.eval(), batches.step(0)[0]).item()


def answers_something(folder: Path, dtype: torch.dtype) -> None:
    """The exported folder is all that plain transformers needs."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == dtype
    question = [{"role": "user", "content": "Give three tips for staying healthy."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
