"""Plans without a search: one strategy each, with the planner's own estimates."""

from collections.abc import Callable
from typing import Any

import pytest

from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.memory import estimate_memory
from toolkit.planner.plan import Candidate, Plan, Rejection
from toolkit.planner.resolve import setup_of
from toolkit.planner.strategy import Layout, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

MakePlan = Callable[..., Plan]


def candidate(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> Candidate:
    setup = setup_of(model, cluster, workload=workload, strategy=strategy)
    return Candidate(strategy=strategy, memory=estimate_memory(setup), time=estimate_time(setup))


def plan_of(name: str, machines: str, *, work: dict[str, Any], price: float | None = None, **choices: Any) -> Plan:
    """A plan of the given strategy; `choices` are its fields, `tp`, `pp`, `sp` and `cp` those of its layout."""
    model = ModelSpec.resolve(name)
    cluster = ClusterSpec.resolve(machines).model_copy(update={"price_per_gpu_hour": price})
    workload = Workload.parse(work, source="test")
    sizes = {size: choices.pop(size) for size in ("tp", "pp", "sp", "cp") if size in choices}
    replica = Layout(dp=1, **sizes).world_size
    layout = Layout(dp=cluster.world_size // replica, **sizes)
    micro = choices.pop("micro_batch", 1)
    accum = workload.global_batch // (layout.dp * micro)
    assert accum * layout.dp * micro == workload.global_batch
    strategy = Strategy.parse(
        {"layout": layout, "zero_stage": 1, "micro_batch": micro, "grad_accum": accum, **choices}, source="test"
    )
    one = candidate(model, cluster, workload, strategy)
    other = candidate(model, cluster, workload, strategy.model_copy(update={"activation_checkpointing": "full"}))
    setup = setup_of(model, cluster, workload=workload, strategy=strategy)
    stages = tuple(estimate_memory(setup, stage) for stage in range(layout.pp)) if layout.pp > 1 else ()
    return Plan(
        model=model,
        cluster=cluster,
        workload=workload,
        strategy=strategy,
        memory=one.memory,
        time=one.time,
        gradient_clipping=1.0,
        reasons=("It fits.", "It is the fastest of 17 strategies that fit."),
        stage_memory=stages,
        alternatives=(other,),
        pareto=(one, other),
        rejected=(Rejection(strategy="ZeRO-0, micro-batch 1", reason="needs 128.0 GiB", knob="zero_stage 2"),),
        judged=10_412,
        rejections={"heads": 2_119, "device memory": 6_001},
    )


@pytest.fixture
def small() -> Plan:
    """8 GPUs, one stage, everything in view."""
    return plan_of("llama-3.1-8b", "8xA100-80GB", work={"seq_len": 4096, "global_batch": 64}, zero_stage=2, price=2.0)


@pytest.fixture
def long_pipeline() -> Plan:
    """Tensor and pipeline parallelism over 16 stages."""
    return plan_of(
        "llama-3.1-405b",
        "16x8xH100-80GB",
        work={"seq_len": 8192, "global_batch": 64},
        engine="mcore",
        tp=8,
        pp=16,
        micro_batch=1,
    )


@pytest.fixture
def make_plan_of() -> MakePlan:
    """`plan_of`, for other plans."""
    return plan_of
