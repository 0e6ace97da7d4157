"""Faults of a question: the whole text of each, and all of them at once."""

from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.planner.request import Fixed, divisors
from toolkit.planner.search import make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


def refusal(model: str = "llama-3.1-8b", cluster: str = "8xA100-80GB", **rest: Any) -> str:
    work = {"seq_len": 4096, "global_batch": 64, **rest.pop("work", {})}
    with pytest.raises(SpecError) as failure:
        make_plan(
            ModelSpec.resolve(model), ClusterSpec.resolve(cluster), Workload.model_validate(work), fixed=Fixed(**rest)
        )
    return str(failure.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tp": 6}, "tp=6 does not divide 32 attention heads; use 1, 2, 4 or 8"),
        ({"tp": 16}, "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8"),
        ({"tp": 4}, "tp=4: this release has no engine for tensor parallelism; use tp=1"),
        ({"pp": 64}, "pp=64 exceeds the 32 layers of llama-3.1-8b; use 1 to 32"),
        ({"pp": 2}, "pp=2: this release has no engine for pipeline parallelism; use pp=1"),
        ({"sp": 3}, "sp=3 does not divide 32 attention heads; use 1, 2, 4 or 8"),
        ({"sp": 2}, "sp=2: this release has no engine for sequence parallelism; use sp=1"),
        (
            {"offload": "all", "zero_stage": 2},
            "offload=all needs ZeRO-3, the stage that shards weights, not zero_stage=2; use zero_stage=3",
        ),
        (
            {"offload": "optimizer", "zero_stage": 0},
            "offload=optimizer needs sharded optimizer states, not zero_stage=0; use zero_stage=1, 2 or 3",
        ),
        ({"work": {"global_batch": 30}}, "global_batch=30 is not a multiple of 8 ranks; use 24 or 32"),
        ({"work": {"global_batch": 5}}, "global_batch=5 is not a multiple of 8 ranks; use 8"),
        ({"micro_batch": 3}, "global_batch=64 is not a multiple of 8 ranks x micro_batch=3; use 48 or 72"),
        (
            {"work": {"seq_len": 200_000}},
            "seq_len=200000 exceeds llama-3.1-8b's max_position_embeddings 131072; use 131072 or less",
        ),
        ({"cluster": "8xV100-32GB"}, "precision=bf16: V100-32GB has no bf16; use fp16"),
    ],
)
def test_each_fault_says_what_to_do(given: dict[str, Any], message: str) -> None:
    assert refusal(**given) == message


def test_all_faults_come_at_once() -> None:
    message = refusal(cluster="8xV100-32GB", tp=6, pp=99, micro_batch=3, offload="all", zero_stage=1)
    assert [line.split("=")[0].split(":")[0] for line in message.splitlines()] == [
        "precision",
        "tp",
        "pp",
        "offload",
        "global_batch",
    ]


def test_one_is_no_parallelism() -> None:
    fixed = Fixed(tp=1, pp=1, sp=1)
    machines, work = ClusterSpec.resolve("8xA100-80GB"), Workload(seq_len=512, global_batch=8)
    assert make_plan(ModelSpec.resolve("llama-3.2-1b"), machines, work, fixed=fixed).strategy.layout.tp == 1


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
