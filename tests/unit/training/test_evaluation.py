"""What counts as an answer, and which measurements from before training are compared with those after it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from ranks.tiny import write_tokenizer
from toolkit.data.loader import Share
from toolkit.data.prepare import prepare
from toolkit.run_folder import RunFolder
from toolkit.specs.data import DataConfig
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload
from toolkit.training.before import evaluate_before
from toolkit.training.evaluation import Answer, Evaluation, HeldOut, evaluate
from toolkit.training.rows import held_out_test
from unit.training.test_summary import Questions, held_out


def answering(engine: Callable[..., Any], answers: Sequence[list[int]]) -> Any:
    """An engine that gives these answers, whatever it is asked."""
    scripted = engine([])
    scripted.generate = lambda batches, **limits: list(answers)
    return scripted


@pytest.mark.parametrize("flagged", [True, False])
def test_an_end_of_turn_need_not_be_flagged_as_special(
    tmp_path: Path, engine: Callable[..., Any], flagged: bool
) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    marks = [AddedToken(mark, special=flagged, normalized=False) for mark in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens(marks, special_tokens=flagged)
    rows = [{"prompt": f"w{number}", "completion": f"w{number + 1} w{number + 2}"} for number in range(3, 13)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(train=str(tmp_path / "train.jsonl"), template="chatml", held_out_fraction=0.2)
    recipe = Recipe(
        model="m",
        workload=Workload(seq_len=32, global_batch=4),
        data=config,
        evaluation={"exact_match_samples": 2, "loss_samples": 0},
    )
    data = prepare(config, tokenizer, seq_len=32, seed=0, cache_dir=tmp_path / "cache")
    asked = held_out_test(recipe, data, Share(1, 0, 2))
    assert asked is not None
    assert asked.questions is not None
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    right = [tokenizer.convert_tokens_to_ids(answer.split()) for answer in asked.questions.answers]
    # As an engine gives them: filled up after the end, which a short one may lack.
    given = [[*right[0], end, tokenizer.pad_token_id, tokenizer.pad_token_id], right[1]]
    found = evaluate(answering(engine, given), asked)
    assert found.exact_match == 1.0
    assert found.example is not None
    assert found.example.given == asked.questions.answers[0]


@pytest.mark.parametrize(
    ("tokens", "text"), [([5, 6, 9, 5], "5 6"), ([5, 8, 9], "5"), ([9], ""), ([], ""), ([5, 6], "5 6")]
)
def test_an_answer_ends_before_its_first_stop_token(engine: Callable[..., Any], tokens: list[int], text: str) -> None:
    asked = replace(held_out(Questions()), decode=lambda ids: " ".join(map(str, ids)), stop_token_ids=[8, 9], graded=1)
    found = evaluate(answering(engine, [tokens, [1], [1]]), asked)
    assert found.example == Answer("one", "2", text)


def asked(
    fingerprint: str = "these", *, answers: Sequence[str] = (" 2", "4\n", "7"), max_new_tokens: int = 4, shown: int = 1
) -> HeldOut:
    """Three held-out questions, of which two count, and the same as prompts."""
    questions: Any = Questions()
    questions.answers = tuple(answers)
    return replace(
        held_out(questions),
        graded=2,
        shown=shown,
        max_new_tokens=max_new_tokens,
        fingerprint=fingerprint,
        prompts=Questions(),
    )


def test_what_was_measured_before_is_read_by_a_run_that_goes_on(folder: RunFolder, engine: Callable[..., Any]) -> None:
    before = evaluate_before(engine([], losses=[3.0]), asked(), folder, keeps=True)
    assert (before.loss, before.exact_match, before.prompts_match) == (3.0, 1.0, 2 / 3)
    assert evaluate_before(engine([], losses=[1.0]), asked(), folder, keeps=True) == before


@pytest.mark.parametrize(
    ("now", "left_out", "words"),
    [
        (asked("others"), {"loss": None}, "held-out loss: "),
        (asked(answers=("2", "5", "7")), {"exact_match": None}, "exact match: "),
        # Neither counts for the exact match.
        (asked(answers=("2", "4", "8")), {}, None),
        (asked(shown=2), {"answers": ()}, None),
        (
            asked("others", max_new_tokens=9),
            {"loss": None, "exact_match": None, "prompts_match": None, "example": None, "answers": ()},
            "held-out loss, exact match, prompts right: ",
        ),
        (replace(asked(), prompts=None), {"prompts_match": None}, "prompts right: "),
    ],
)
def test_other_samples_are_not_compared(
    folder: RunFolder, engine: Callable[..., Any], now: HeldOut, left_out: dict[str, Any], words: str | None
) -> None:
    before = evaluate_before(engine([], losses=[3.0]), asked(), folder, keeps=True)
    note = f"{words}before training on other samples than now, so left out" if words else None
    assert evaluate_before(engine([]), now, folder, keeps=True) == replace(before, **left_out, note=note)
    # What was measured stays in the file: the recipe may be changed back.
    assert evaluate_before(engine([]), asked(), folder, keeps=True) == before


def test_a_file_of_an_earlier_release_is_read(folder: RunFolder, engine: Callable[..., Any]) -> None:
    example = {"prompt": "one", "expected": "2", "given": "3"}
    folder.before.write_text(json.dumps({"loss": 2.5, "exact_match": 0.0, "example": example}))
    assert evaluate_before(engine([]), asked(), folder, keeps=True) == Evaluation(2.5, 0.0, Answer("one", "2", "3"))
