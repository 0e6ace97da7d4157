"""One layout given whole: what is filled in, what is refused, and the verdict."""

import re
from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.planner.api import estimate
from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import Plan


def given(cluster: str = "8xA100-80GB", model: str = "llama-3.1-8b", **strategy: Any) -> Plan:
    return estimate(model, cluster, work={"seq_len": 4096, "global_batch": 64}, strategy=strategy)


def test_what_is_left_out_follows() -> None:
    strategy = given(zero_stage=2, micro_batch=2).strategy
    assert (strategy.engine, strategy.layout.dp, strategy.grad_accum) == ("zero", 8, 4)
    assert (strategy.offload, strategy.activation_checkpointing) == ("none", "none")
    strategy = given(tp=2, pp=2, zero_stage=1).strategy
    assert (strategy.engine, strategy.layout.dp, strategy.micro_batch, strategy.grad_accum) == ("pipeline", 2, 1, 32)
    assert given(cp=2).strategy.engine == "mcore"
    assert given(activation_checkpointing="selective").strategy.engine == "zero"


def test_a_layout_that_fits_says_so() -> None:
    made = given(zero_stage=3)
    assert made.memory.total_bytes <= made.cluster.device.memory_bytes * (1 - HEADROOM)
    assert made.reasons[0].startswith("It fits: ")
    assert made.judged == 1


def test_a_layout_that_does_not_fit_is_returned_with_what_would_help() -> None:
    made = given(zero_stage=2, micro_batch=8)
    assert made.memory.total_bytes > made.cluster.device.memory_bytes
    assert made.reasons[0].startswith("It does not fit: needs ")
    assert re.fullmatch(r"cheapest change that helps: --micro-batch [124]: [\d.]+ s per step", made.reasons[1])


def test_stages_are_estimated_one_by_one() -> None:
    made = given(engine="mcore", tp=2, pp=4)
    assert [memory.stage for memory in made.stage_memory] == [0, 1, 2, 3]
    assert made.stage_memory[-1].logits_bytes > 0 == made.stage_memory[1].logits_bytes


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"tp": 3}, "tp=3 does not divide 32 attention heads; use 1, 2, 4 or 8"),
        ({"tp": 4, "pp": 4}, "tp=4 x pp=4 does not divide 8 ranks; use tp=1 or 2, or pp=1 or 2"),
        ({"dp": 2, "tp": 2}, "dp=2 x tp=2 is 4 ranks, the cluster has 8; use dp=4"),
        (
            {"micro_batch": 64},
            "global_batch=64 is not a multiple of 8 replicas x micro_batch=64; "
            "use micro_batch=1, 2, 4 or 8, or global_batch=512",
        ),
        (
            {"offload_to": "nvme"},
            "offload_to=nvme with offload=none: nothing is offloaded; use offload=optimizer or all, or no offload_to",
        ),
        (
            {"tp": 3, "offload": "all"},
            "tp=3 does not divide 32 attention heads; use 1, 2, 4 or 8\n"
            "offload=all needs ZeRO-3, the stage that shards weights, not zero_stage=1; use zero_stage=3",
        ),
        (
            {"micro_batch": 2, "grad_accum": 2},
            "8 replicas x micro_batch=2 x grad_accum=2 is not global_batch=64; use grad_accum=4",
        ),
        ({"vpp": 2}, "vpp=2 interleaves the chunks of several stages, pp is 1; use vpp=1 or pp=2 and more"),
        ({"engine": "zero", "pp": 2}, "pp=2: engine zero has no pipeline parallelism; use pp=1"),
        (
            {"pp": 8, "vpp": 2, "micro_batch": 16},
            "vpp=2 needs micro-batches in groups of pp=8, there are 4 per step; use vpp=1 or a grad_accum of 8",
        ),
        ({"zero": 1}, "layout: unknown key `zero`; did you mean `zero_stage`?"),
    ],
)
def test_contradictions_are_refused(strategy: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as failure:
        given(**strategy)
    assert str(failure.value) == message
