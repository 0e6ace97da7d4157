"""A trained LLaMA (260K weights, tied, grouped-query) on real instructions, from `toolkit.plan` to generated text.

The first step's loss was measured within 1.2e-6 of plain transformers in fp32 and in bf16.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import toolkit
from ranks.instructions import SOURCES, one_process_loss, write_samples
from ranks.reference import DTYPES
from ranks.runs import in_warm_ranks
from toolkit.specs.recipe import Recipe

pytestmark = pytest.mark.ranks

SEQ_LEN, GLOBAL_BATCH, NUM_STEPS = 256, 8, 15


@pytest.mark.parametrize(
    ("precision", "stage", "source", "start"),
    [
        ("fp32", 2, "alpaca", in_warm_ranks),
        pytest.param("fp32", 3, "gsm8k", toolkit.launch, marks=pytest.mark.soak),
        ("bf16", 2, "gsm8k", in_warm_ranks),
        pytest.param("bf16", 3, "alpaca", in_warm_ranks, marks=pytest.mark.soak),
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
    samples = write_samples(tmp_path / "samples.jsonl", source, shared_data)
    recipe = write_recipe(tmp_path / "run", base, samples, precision=precision, stage=stage, source=source)

    start(tmp_path / "run")

    run = toolkit.load_run(tmp_path / "run")
    first = one_process_loss(recipe, tmp_path / "prepared")
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


def answers_something(folder: Path, dtype: torch.dtype) -> None:
    """The exported folder is all that plain transformers needs."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == dtype
    question = [{"role": "user", "content": "Give three tips for staying healthy."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
