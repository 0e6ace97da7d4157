"""Notebooks that start processes run from top to bottom and end with what they promise."""

from pathlib import Path
from typing import Any

import pytest

from notebook_runs import run_notebook

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

SECONDS_FACTOR, BYTES_FACTOR = 4.0, 2.0
"""A machine of tests runs other things too, during the calibration or after it."""


def words_of_pictures(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return ["".join(one["data"]["text/plain"]) for one in outputs if "image/png" in one.get("data", {})]


@pytest.mark.soak
def test_finetune(tmp_path: Path) -> None:
    asked = {
        "summary": "run.summary",
        "steps": "run.steps",
        "questions": "questions",
        "replies": "[reply[0]['generated_text'][-1]['content'] for reply in replies]",
        "held_out": "inputs.held_out.read_text().splitlines()",
    }
    notebook, found = run_notebook("02_finetune.ipynb", tmp_path, seconds=300, asked=asked)
    summary, steps = found["summary"], found["steps"]
    assert summary["world_size"] >= 2
    assert len(steps) == 120
    assert summary["loss_first"] > 6
    assert summary["exact_match_before"] == 0
    assert summary["exact_match_after"] > 0.9, "it has learnt its three kinds of questions"
    import json

    expected = {row["prompt"]: row["completion"] for row in map(json.loads, found["held_out"])}
    right = [
        reply.strip() == expected[question]
        for question, reply in zip(found["questions"], found["replies"], strict=True)
    ]
    assert sum(right) >= len(right) - 1, "the export answers in plain transformers as the run did"
    (curve,) = words_of_pictures(notebook)
    assert curve.startswith("step 120 of 120: loss ")


@pytest.mark.soak
def test_ds_config(tmp_path: Path) -> None:
    asked = {
        "found": "[(one.line, one.finding.rule) for one in found if one.finding.severity == 'error']",
        "left": "[one.finding.rule for one in corrected.remaining if one.finding.severity == 'error']",
        "errors": "[one.finding.rule for one in check([path]) if one.finding.severity == 'error']",
        "fits": "{key: {name: one.fits for name, one in answers.items()} for key, answers in groups.items()}",
        "norms": "[(step['grad_norm'], step['clipped_norm']) for step in run.steps]",
    }
    _, found = run_notebook("03_ds_config.ipynb", tmp_path, seconds=300, asked=asked)
    assert [rule for _, rule in found["found"]] == ["offload-stage", "unknown-key"]
    assert found["left"] == ["offload-stage"], "what can be meant in two ways is left to its author"
    assert found["errors"] == []
    assert found["fits"]["zero_optimization.stage"] == {"0": False, "1": False, "2 (now)": True, "3": True}
    assert len(found["norms"]) == 16
    for before, after in found["norms"]:
        assert after == pytest.approx(min(before, 0.25), rel=1e-4), "the edited clipping is in force"


@pytest.mark.soak
def test_parallelism(tmp_path: Path) -> None:
    notebook, _ = run_notebook("04_parallelism.ipynb", tmp_path, seconds=300)
    assert not list(tmp_path.iterdir())
    assert len(words_of_pictures(notebook)) > 10


@pytest.mark.soak
def test_compare(tmp_path: Path) -> None:
    parameters = {
        "HIDDEN_SIZE": 256,
        "STEPS": 5,
        "CALIBRATION_SECONDS": 5,
        "LAYOUTS": {
            "all-on-each": {"zero_stage": 0},
            "recomputed": {"zero_stage": 3, "activation_checkpointing": "full"},
        },
    }
    asked = {
        "ratios": "{one.run.name: {two.unit: two.ratio for two in one.quantities} for one in compared}",
        "fill": "[one.fill for one in compared]",
        "measured": "[two.unit for two in compared[0].quantities]",
        "calibrated": "machine.measured is not None",
    }
    notebook, found = run_notebook("05_compare.ipynb", tmp_path, seconds=300, asked=asked, parameters=parameters)
    assert found["calibrated"]
    assert found["ratios"].keys() == {"all-on-each", "recomputed"}
    for ratios in found["ratios"].values():
        assert 1 / SECONDS_FACTOR < ratios["seconds"] < SECONDS_FACTOR
        assert 1 / BYTES_FACTOR < ratios["bytes"] < BYTES_FACTOR
    assert min(found["fill"]) > 0.9, "packed rows fill the sequences, as the plan assumes"
    published, predicted, compared = words_of_pictures(notebook)
    assert "published runs, mean error" in published
    assert len(predicted.splitlines()) == len(compared.splitlines()) == 2
