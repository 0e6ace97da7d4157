"""Real files, whole and as they come, as a user would name them in a recipe."""

import math
from pathlib import Path

import pytest

import toolkit
from ranks.instructions import one_process_loss
from ranks.runs import in_warm_ranks
from toolkit.specs.recipe import Recipe

pytestmark = pytest.mark.ranks

FILES = (
    "chat/fastchat_dummy_conversation.json",
    "chat/openai_messages_wrapped.jsonl",
    "sft/alpaca_data.json",
    "sft/gsm8k_train.jsonl",
    "sft/gsm8k_test.jsonl",
    "tinyshakespeare.txt",
    "tinystories_sample.txt",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", [FILES[0], *(pytest.param(file, marks=pytest.mark.soak) for file in FILES[1:])])
def test_a_file_as_it_comes_trains(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base = shared_data / "models" / "stories260K-hf-fp32"
    plan = toolkit.plan(base, "2xcpu", seq_len=256, global_batch=8, precision="fp32", zero_stage=2, micro_batch=2)
    recipe = Recipe.parse(
        {
            "model": str(base),
            "workload": plan.workload.model_dump(),
            "data": {"train": str(shared_data / file)},
            "max_steps": 3,
            "trackers": [],
        },
        source="test",
    )
    toolkit.emit(plan, tmp_path / "run", recipe)
    in_warm_ranks(tmp_path / "run")

    losses = [step["loss"] for step in toolkit.load_run(tmp_path / "run").steps]
    assert losses[0] == pytest.approx(one_process_loss(recipe, tmp_path / "prepared"), abs=1e-4)
    assert all(map(math.isfinite, losses))
