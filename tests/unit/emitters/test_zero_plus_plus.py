"""ZeRO++ as the recipe asks for it: keys of ds_config.json where DeepSpeed does what they say, refused elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.emitters import emit
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

ALL = {"quantized_weights": True, "quantized_gradients": True, "hpz_partition_size": 8}


def plan(
    cluster: str = "2x8xA100-80GB", model: str = "llama-3.2-1b", work: dict[str, Any] | None = None, **fixed: Any
) -> Plan:
    workload = Workload.model_validate({"seq_len": 512, "global_batch": 32, "precision": "fp16", **(work or {})})
    pins = Fixed.model_validate({"zero_stage": 3, "tp": 1, "sp": 1, "pp": 1, **fixed})
    return make_plan(ModelSpec.resolve(model), ClusterSpec.resolve(cluster), workload, fixed=pins)


def zero_of(folder: Path, made: Plan, **asked: Any) -> dict[str, Any]:
    """zero_optimization as written."""
    recipe = Recipe(model=made.model.name, workload=made.workload, communication=CommunicationConfig(**asked))
    content = json.loads((emit(made, folder, recipe) / "ds_config.json").read_text())
    return dict(content["zero_optimization"])


def test_what_is_asked_for_is_written(tmp_path: Path) -> None:
    made = plan()
    plain, all_of_it = zero_of(tmp_path / "plain", made), zero_of(tmp_path / "all", made, **ALL)
    assert all_of_it == plain | {f"zero_{name}": value for name, value in ALL.items()}
    assert not any(key.startswith("zero_") for key in plain)


WEIGHTS, GRADIENTS, TWICE = ({name: value} for name, value in ALL.items())


@pytest.mark.parametrize(
    ("made", "asked", "told"),
    [
        ({"zero_stage": 2}, WEIGHTS, "ZeRO-3 gathers weights, zero_stage=2 does not"),
        (
            {"cluster": "8xcpu", "model": "smollm-135m", "work": {"precision": "bf16"}},
            WEIGHTS,
            "DeepSpeed's kernels for it are CUDA's",
        ),
        ({"tp": 2}, TWICE, "is between replicas of one rank"),
        ({"offload": "all"}, TWICE, "weights in host memory are copied from there"),
        ({"work": {"method": "lora"}}, WEIGHTS, "a rank's share of an adapter is too small"),
        ({"cluster": "4xA100-80GB"}, TWICE, "zero_hpz_partition_size=8 does not divide 4 ranks"),
        ({"work": {"precision": "fp32"}}, WEIGHTS, "fp32 weights would be rounded twice"),
        ({"work": {"precision": "bf16", "mixed": "autocast"}}, WEIGHTS, "fp32 weights would be rounded twice"),
        ({"cluster": "3x8xA100-80GB", "work": {"global_batch": 24}}, WEIGHTS, "is not in groups of 8"),
        ({"work": {"precision": "bf16"}}, GRADIENTS, "the kernel reads fp16 only, precision is bf16; use fp16"),
        ({"cluster": "8xA100-80GB"}, GRADIENTS, "between nodes, there is one"),
    ],
)
def test_what_deepspeed_does_not_do_is_refused(
    tmp_path: Path, made: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        zero_of(tmp_path / "run", plan(**made), **asked)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("communication: zero_")
    assert told in line
    assert not (tmp_path / "run").exists()
