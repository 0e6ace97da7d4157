"""The same question with something changed: each answer is that of the call it stands for, or why there is none."""

from typing import Any

import pytest

import toolkit
from toolkit.errors import SpecError
from toolkit.planner.api import estimate
from toolkit.planner.what_if import estimate_each, plan_each

QUESTION: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": "8xA100-80GB", "seq_len": 4096, "global_batch": 64}


def test_every_answer_is_the_plan_of_its_question() -> None:
    answers = plan_each(QUESTION, {"as asked": {}, "LoRA": {"method": "lora"}})
    assert list(answers) == ["as asked", "LoRA"]
    assert answers["as asked"].plan == toolkit.plan(**QUESTION)
    assert answers["LoRA"].plan == toolkit.plan(**QUESTION, method="lora")
    assert all(answer.fits and not answer.refusal for answer in answers.values())


def test_where_nothing_fits_the_reason_stands_instead() -> None:
    change = {"model": "llama-3.1-70b", "cluster": "1xRTX4090-24GB"}
    (answer,) = plan_each(QUESTION, {"large": change}).values()
    assert answer.plan is None
    assert not answer.fits
    assert "no plan fits llama-3.1-70b" in answer.refusal


def test_every_layout_is_the_estimate_of_its_values() -> None:
    given = {**QUESTION, "engine": "zero"}
    answers = estimate_each(given, {"1": {"zero_stage": 1}, "2": {"zero_stage": 2, "micro_batch": 1}})
    work = {"seq_len": 4096, "global_batch": 64}
    made = estimate("llama-3.1-8b", "8xA100-80GB", work=work, strategy={"engine": "zero", "zero_stage": 2})
    assert answers["2"].plan == made
    assert answers["2"].fits
    assert answers["1"].plan is not None, "what does not fit has numbers too"
    assert not answers["1"].fits


def test_a_layout_that_no_engine_runs_is_refused_by_itself() -> None:
    answers = estimate_each({**QUESTION, "engine": "zero"}, {"3": {"zero_stage": 3}, "tp": {"tp": 3}})
    assert answers["3"].fits
    assert answers["tp"].plan is None
    assert "tp=3" in answers["tp"].refusal


@pytest.mark.parametrize(
    ("question", "told"),
    [({"model": "llama-9"}, "llama-9"), ({"sequence": 3}, "sequence"), ({"precision": "fp7"}, "precision")],
)
def test_a_wrong_question_is_an_error_and_no_answer(question: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        plan_each(QUESTION, {"": question})
    with pytest.raises(SpecError, match=told):
        estimate_each({**QUESTION, **question}, {"": {}})


def test_a_misspelt_layout_is_an_error_and_no_answer() -> None:
    with pytest.raises(SpecError, match="zero_stage"):
        estimate_each(QUESTION, {"": {"zero_stge": 2}})
