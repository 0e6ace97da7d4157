"""summary.json and the held-out measurements that it tells."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import toolkit
from toolkit.engines.base import StepResult
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.training.evaluation import Answer, Evaluation, HeldOut, evaluate
from toolkit.training.summary import write_summary
from toolkit.training.telemetry import Telemetry


@pytest.fixture(scope="module")
def plan() -> Plan:
    return toolkit.plan("smollm-135m", "2xcpu", seq_len=64, global_batch=8)


@pytest.fixture
def telemetry(folder: RunFolder, engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    """Four steps of 1, 4, 2 and 2 seconds; the second is skipped."""
    clock = iter([0.0, 1.0, 5.0, 7.0, 9.0])
    with monkeypatch.context() as patch, Telemetry(folder, engine([]), num_steps=4) as telemetry:
        patch.setattr("toolkit.training.telemetry.time.perf_counter", lambda: next(clock))
        telemetry.start_clock()
        for step, loss in enumerate([3.0, 3.0, 2.5, 2.0], start=1):
            result = StepResult(
                loss=loss,
                grad_norm=1.0,
                clipped_norm=1.0,
                tokens=1000,
                supervised_tokens=9,
                loss_scale=1.0,
                skipped=step == 2,
            )
            telemetry.record(step, result, learning_rate=1e-3, epoch=1.0, data_seconds=0.0)
    return telemetry


def test_the_run_in_one_object(folder: RunFolder, plan: Plan, telemetry: Telemetry) -> None:
    before = Evaluation(loss=3.1, exact_match=0.0, example=Answer("1 + 1 =", "2", "9"))
    after = Evaluation(loss=2.1, exact_match=0.5, example=Answer("1 + 1 =", "2", "2"))
    write_summary(folder, plan, telemetry.records, before=before, after=after, facts={"parameters": 7})
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    versions = summary.pop("versions")
    assert versions["toolkit"] == toolkit.__version__
    assert versions["torch"] == torch.__version__
    assert summary == {
        "loss_first": 3.0,
        "loss_last": 2.0,
        "held_out_loss_before": 3.1,
        "held_out_loss_after": 2.1,
        "exact_match_before": 0.0,
        "exact_match_after": 0.5,
        "prompts_match_before": None,
        "prompts_match_after": None,
        "before_note": None,
        "example": {"prompt": "1 + 1 =", "expected": "2", "before": "9", "after": "2"},
        "tokens_per_second": 500.0,
        "steps": 4,
        "skipped_steps": 1,
        "export": "final",
        "adapter": None,
        "world_size": 2,
        "parameters": 7,
    }
    assert [entry.name for entry in folder.path.glob("summary*")] == ["summary.json"]


def test_adapters_are_named(folder: RunFolder, telemetry: Telemetry) -> None:
    adapted = toolkit.plan("smollm-135m", "2xcpu", seq_len=64, global_batch=8, method="lora")
    nothing = Evaluation(loss=None, exact_match=None, example=None)
    write_summary(folder, adapted, telemetry.records, before=nothing, after=nothing, facts={})
    assert json.loads(folder.summary.read_text(encoding="utf-8"))["adapter"] == "adapter"


def test_what_was_not_measured_is_null(folder: RunFolder, plan: Plan, telemetry: Telemetry) -> None:
    nothing = Evaluation(loss=None, exact_match=None, example=None)
    write_summary(folder, plan, telemetry.records, before=nothing, after=nothing, facts={})
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    assert summary["held_out_loss_before"] is None
    assert summary["exact_match_after"] is None
    assert summary["example"] is None


class Questions:
    """Three prompts in two batches of two rows: the last row only fills up."""

    batches = ({"input_ids": torch.tensor([[1], [2]])}, {"input_ids": torch.tensor([[3], [0]])})
    numbers = (0, 1, 2)
    prompts = ("one", "two", "three")
    answers = (" 2", "4\n", "7")


def held_out(questions: Questions | None, num_batches: int = 1) -> HeldOut:
    return HeldOut(
        loss_batches=[{}] * num_batches,
        questions=questions,
        decode=lambda tokens: f" {tokens[0]} ",
        max_new_tokens=4,
        stop_token_ids=[9],
    )


def test_exact_match_counts_the_asked_rows_only(engine: Callable[..., Any]) -> None:
    measured = evaluate(engine([]), held_out(Questions()))
    assert measured == Evaluation(loss=1.0, exact_match=2 / 3, example=Answer("one", "2", "2"))


def test_without_samples_nothing_is_measured(engine: Callable[..., Any]) -> None:
    assert evaluate(engine([]), None) == Evaluation(loss=None, exact_match=None, example=None)
    assert evaluate(engine([]), held_out(None)).exact_match is None
    assert evaluate(engine([]), held_out(None, num_batches=0)).loss is None
