"""Parallel = equal: every layout's loss and gradient norm are those of one process, at every step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from procs import run_ranks
from ranks.reference import Step, reference_run
from ranks.settings import CLIP
from ranks.zero_runs import train, write_run

from toolkit.engines.base import StepResult

pytestmark = pytest.mark.ranks


@dataclass(frozen=True)
class Distance:
    """The largest over all steps."""

    loss: float
    """Absolute, in nats."""
    norm: float
    """Relative."""


def distance(results: Sequence[StepResult], steps: Sequence[Step]) -> Distance:
    pairs = list(zip(results, steps, strict=True))
    return Distance(
        loss=max(abs(ours.loss - one.loss) for ours, one in pairs),
        norm=max(abs(ours.grad_norm / one.grad_norm - 1) for ours, one in pairs),
    )


def results_of(folder: Path, *, timeout_s: float = 60.0) -> list[StepResult]:
    first, second = run_ranks(train, 2, folder, timeout_s=timeout_s)
    assert first == second
    print(folder.name, end=" ")
    return first


FULL: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"zero_stage": stage} for stage in range(4)},
    **{f"zero{stage}-no-accum": {"zero_stage": stage, "micro_batch": 4} for stage in (0, 2, 3)},
    **{f"zero{stage}-accum4": {"zero_stage": stage, "micro_batch": 1} for stage in range(4)},
    **{f"zero{stage}-recompute": {"zero_stage": stage, "activation_checkpointing": True} for stage in (0, 2, 3)},
    **{f"zero{stage}-offload": {"zero_stage": stage, "offload": "optimizer"} for stage in (1, 2, 3)},
    "zero3-offload-all": {"zero_stage": 3, "offload": "all"},
}
LORA: dict[str, dict[str, Any]] = {
    f"lora-zero{stage}{'-recompute' if r else ''}": {"zero_stage": stage, "activation_checkpointing": r, "method": "lora", "lora_rank": 4}
    for stage in range(4) for r in (False, True)
}
LOW = {
    f"{precision}-zero{stage}{'-lora' if l else ''}": {"precision": precision, "zero_stage": stage, **({"method": "lora", "lora_rank": 4} if l else {})}
    for precision in ("bf16", "fp16") for stage in range(4) for l in (False,True)
}


@pytest.mark.parametrize("choices", [pytest.param(choices, id=name) for name, choices in {**FULL, **LORA, **LOW}.items()])
@pytest.mark.parametrize("which", ["untied", "tied"])
def test_measure(which: str, choices: dict[str, Any], tmp_path: Path, request: Any) -> None:
    model = request.getfixturevalue(which)
    if which == "tied" and ("lora" in str(choices) or "1" in str(choices)):
        pytest.skip()
    folder = write_run(tmp_path / "run", model, **choices)
    if choices.get("precision") == "fp16":
        path = folder / "ds_config.json"
        config = json.loads(path.read_text())
        config["fp16"]["initial_scale_power"] = 8
        path.write_text(json.dumps(config))
    ref = reference_run(model, precision=choices.get("precision", "fp32"), lora_rank=choices.get("lora_rank"))
    res = results_of(folder, timeout_s=200)
    d = distance(res, ref.steps)
    over = sum(s.grad_norm > CLIP for s in ref.steps)
    with open("/tmp/w/par/table.txt", "a") as f:
        f.write(f"{which} {request.node.callspec.id} dloss {d.loss:.1e} dnorm {d.norm:.1e} clipped {over} first {res[0].loss:.4f} last {res[-1].loss:.4f} skipped {sum(r.skipped for r in res)}\n")
