"""What goes together with compressed gradients and local steps; the rest is refused before any process starts."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.zero.between import check_communication
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

TOPK, LOCAL = {"compression": "topk"}, {"local_steps": 8}


def check(folder: Path, communication: dict[str, Any], *, clipping: str = "norm", **choices: Any) -> None:
    plan = toolkit.plan("tinyllama", "2xA100-80GB", seq_len=64, global_batch=4, **{"precision": "fp32", **choices})
    recipe = Recipe(model="tinyllama", workload=plan.workload, communication=communication, clipping={"kind": clipping})
    run = RunFolder(toolkit.emit(plan, folder / "run", recipe))
    check_communication(Recipe.load(run.recipe), Plan.load(run.plan), load_ds_config(run, plan))


@pytest.mark.parametrize(
    ("communication", "choices", "words"),
    [
        (TOPK, {"zero_stage": 2}, "zero_stage is 2; plan again with --zero 0"),
        (TOPK, {"zero_stage": 1, "tp": 2}, "between replicas of one rank"),
        (TOPK, {"zero_stage": 0, "precision": "fp16"}, "use precision bf16 or fp32"),
        ({"compression": "fp16"}, {"zero_stage": 0, "precision": "bf16"}, "use powersgd or topk"),
        (LOCAL, {"zero_stage": 0, "clipping": "agc"}, "clipping agc is by what all replicas share"),
        (LOCAL, {"zero_stage": 0, "optimizer": "muon"}, "muon has none; use adamw, lion or sgd"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, communication: dict[str, Any], choices: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match="communication: ") as failure:
        check(tmp_path, communication, **choices)
    assert words in str(failure.value)


@pytest.mark.parametrize("communication", [TOPK, LOCAL, {"compression": "powersgd"}, {"compression": "bf16"}], ids=str)
def test_the_rest_passes(tmp_path: Path, communication: dict[str, Any]) -> None:
    check(tmp_path, communication, zero_stage=0)
    check(tmp_path / "as-ever", {}, zero_stage=3)
