"""A run that learns too fast ends early, and exports the weights of its best evaluation, whatever the layout."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import toolkit
from ranks.runs import in_warm_ranks
from ranks.test_faults import write_inputs
from toolkit.exporting import export_checkpoint

pytestmark = pytest.mark.ranks

PROMPTS = [{"instruction": "2 + 2?", "output": "4"}, {"instruction": "say it", "output": "it"}]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rate", "choices"),
    [
        pytest.param(1.0, {"zero_stage": 3, "method": "lora"}, id="lora-zero3", marks=pytest.mark.soak),
        pytest.param(0.2, {"pp": 2}, id="pp2"),
    ],
)
def test_the_best_weights_are_what_is_exported(tmp_path: Path, rate: float, choices: dict[str, Any]) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    (inputs / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    plan = toolkit.plan(
        inputs / "model", "2xcpu", seq_len=32, global_batch=8, micro_batch=2, precision="fp32", **choices
    )
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "held_out_fraction": 0.2},
        "max_steps": 40,
        # It rises all the way: what is learnt first is lost later.
        "optimizer": {"learning_rate": rate},
        "schedule": {"kind": "linear", "warmup_ratio": 0.99},
        "evaluation": {
            "every_steps": 2,
            "patience": 2,
            "export_best": True,
            "prompts": str(inputs / "asked.jsonl"),
            "max_new_tokens": 4,
        },
        "faults": {"max_bad_steps": 9},
        "trackers": [],
    }
    folder = toolkit.emit(plan, tmp_path / "run", toolkit.Recipe.parse(recipe, source="test"))
    in_warm_ranks(folder)
    run = toolkit.load_run(folder)
    summary, curve = run.summary, {line["step"]: line["held_out_loss"] for line in run.evaluations}
    best = min(curve, key=lambda step: curve[step])
    assert 0 < best == summary["exported_step"] == summary["steps"] - 4
    assert summary["stopped_early"].startswith(f"stopped early after step {summary['steps']}: the held-out loss")
    assert summary["held_out_loss_after"] == curve[best]
    assert all(line["prompts_match"] in (0.0, 0.5, 1.0) for line in run.evaluations)
    assert summary["prompts_match_before"] == 0.0
    export_checkpoint(folder, tmp_path / "again", step=best)
    exported, again = (load_file(path / "model.safetensors") for path in (run.export, tmp_path / "again"))
    assert exported.keys() == again.keys()
    assert all(bool((exported[name] == weight).all()) for name, weight in again.items())
