"""What a sharded run shows and leaves is what one process has: held-out loss, answers, exported weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from procs import run_ranks
from ranks.after_training import MAX_NEW_TOKENS, NUM_STEPS, learn_and_export
from ranks.equality import assert_equal
from ranks.reference import global_batches, mean_loss, reference_run
from ranks.runs import write_run
from ranks.tiny import EOS, PAD, training_rows
from toolkit.data.loader import Share, eval_batches
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

ROWS = training_rows()["input_ids"]
PROMPTS = [[row[:3] for row in ROWS[:3]], [row[:5] for row in ROWS[7:10]]]
"""Of replica 0 and of replica 1."""


def plain_answers(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """transformers' own greedy answers, one unpadded prompt at a time."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def up_to(stop: int, answer: list[int]) -> list[int]:
    ends = [index for index, token in enumerate(answer) if token in (stop, EOS)]
    return answer[: ends[0] + 1] if ends else answer


@pytest.mark.parametrize(
    ("which", "choices"),
    [
        *[pytest.param("untied", {"zero_stage": stage}, id=f"zero{stage}") for stage in range(4)],
        pytest.param("tied", {"zero_stage": 3}, id="tied-zero3"),
        *[pytest.param("untied", {"zero_stage": stage, "method": "lora"}, id=f"lora-zero{stage}") for stage in (2, 3)],
        pytest.param("untied", {"zero_stage": 1, "tp": 2}, id="tp2-zero1"),
        pytest.param("tied", {"zero_stage": 3, "tp": 2}, id="tied-tp2-zero3"),
        pytest.param("untied", {"zero_stage": 2, "sp": 2}, id="sp2-zero2"),
        pytest.param(
            "wide",
            {"zero_stage": 3, "tp": 2, "sp": 2, "cluster": "4xcpu"},
            id="tp2-sp2-zero3",
            marks=pytest.mark.soak,
        ),
        pytest.param("deep_tied", {"pp": 2, "tp": 2, "cluster": "4xcpu"}, id="tied-pp2-tp2"),
        pytest.param("deep", {"pp": 2, "cluster": "4xcpu"}, id="pp2-dp2"),
        pytest.param("windowed", {"pp": 2}, id="windowed-pp2"),
        pytest.param("untied", {"pp": 2, "method": "lora", "activation_checkpointing": "full"}, id="lora-pp2"),
        pytest.param("deep_tied", {"engine": "mcore", "tp": 2, "cp": 2, "cluster": "4xcpu"}, id="mcore-tied-tp2-cp2"),
        pytest.param("even", {"engine": "mcore", "pp": 2, "vpp": 2, "micro_batch": 4}, id="mcore-pp2-vpp2"),
        pytest.param(
            "even",
            {"engine": "mcore", "tp": 2, "pp": 2, "cluster": "4xcpu", "method": "lora"},
            id="mcore-lora-tp2-pp2",
        ),
    ],
)
@torch.no_grad()
def test_equals_one_process(
    tmp_path: Path, request: pytest.FixtureRequest, which: str, choices: dict[str, Any]
) -> None:
    base = request.getfixturevalue(which)
    with torch.enable_grad():
        method = choices.get("method", "full")
        middle, one, more = (
            reference_run(base, method=method, num_steps=count) for count in (3, NUM_STEPS, NUM_STEPS + 1)
        )
    run = write_run(tmp_path / "run", base, **choices)
    layout = Plan.load(RunFolder(run).plan).strategy.layout
    # All ranks of a replica answer its prompts. Stages are far apart, other ranks of a replica neighbours.
    replicas = [rank // (layout.tp * layout.sp * layout.cp) % layout.dp for rank in range(layout.world_size)]
    expected = [plain_answers(one.model, PROMPTS[replica]) for replica in replicas]
    # Rank 0 finds its answers' end early: it must go on with the others, whose weights it holds.
    stop = expected[0][0][1]

    shown, *same = run_ranks(learn_and_export, layout.world_size, run, PROMPTS, stop)

    assert all(other == shown for other in same)
    # Looking at the model in the middle leaves the training as it is, and so does the export.
    assert_equal(shown.steps, more.steps, loss=1e-5, norm=1e-4)
    (whole,) = eval_batches(training_rows(), Share(1, 0, 32), pad_token_id=PAD)
    plain_losses = [mean_loss(reference.model, whole).item() for reference in (middle, one)]
    assert shown.losses == pytest.approx(plain_losses, abs=1e-5)
    assert [[up_to(stop, answer) for answer in answers] for answers in shown.answers] == [
        [up_to(stop, answer) for answer in answers] for answers in expected
    ]

    exported = RunFolder(run).export
    loaded, report = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values())
    model = copy.deepcopy(one.model).merge_and_unload() if "method" in choices else one.model
    batch = global_batches(1)[0]
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    torch.testing.assert_close(loaded(**given).logits, model(**given).logits, rtol=0, atol=1e-5)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == one.model.config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(exported).pad_token_id == PAD
    assert RunFolder(run).adapter.exists() == ("method" in choices)
    if "method" in choices:
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), RunFolder(run).adapter)
        torch.testing.assert_close(adapted(**given).logits, one.model(**given).logits, rtol=0, atol=1e-5)
        weights = adapted.merge_and_unload().state_dict()
        for name, weight in loaded.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-7)
