"""The memory model: its terms, how they move, and published measurements."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.planner.explain import MEMORY_TERMS
from toolkit.planner.memory import estimate_memory, zero_buckets
from toolkit.planner.plan import Layout, MemoryEstimate, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload
from toolkit.units import GiB

LLAMA_7B = ModelSpec.resolve("llama-2-7b")
A800 = ClusterSpec.resolve("8xA800-80GB")
WORK = Workload(seq_len=4096, global_batch=64)


def estimate(workload: Workload = WORK, model: ModelSpec = LLAMA_7B, **strategy: Any) -> MemoryEstimate:
    dp = strategy.pop("dp", 8)
    given = {"zero_stage": 2, "micro_batch": 1, "grad_accum": 1, **strategy}
    return estimate_memory(
        model, A800, workload=workload, strategy=Strategy.model_validate({"layout": Layout(dp=dp), **given})
    )


def allocated(memory: MemoryEstimate) -> float:
    """GiB that a training process sees as allocated: all but the context."""
    return (memory.total_bytes - memory.context_bytes) / GiB


def states(memory: MemoryEstimate) -> int:
    return memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes


def test_the_named_terms_are_the_total() -> None:
    memory = estimate()
    assert memory.total_bytes == sum(getattr(memory, term) for term in MEMORY_TERMS)


# LLaMA-2-7B, seq_len 4096, 8 x A800-80GB, GiB: the published ZeRO table whose micro-batch and checkpointing are given.
@pytest.mark.parametrize(
    ("stage", "offload", "checkpointing", "micro_batch", "measured"),
    [
        (2, "none", False, 1, 44.8),
        (2, "none", True, 1, 23.5),
        (2, "optimizer", True, 1, 16.9),
        (3, "none", False, 2, 75.7),
        (3, "none", True, 2, 20.4),
    ],
)
def test_measured_zero_runs(stage: int, offload: str, checkpointing: bool, micro_batch: int, measured: float) -> None:
    memory = estimate(
        zero_stage=stage, offload=offload, activation_checkpointing=checkpointing, micro_batch=micro_batch
    )
    assert allocated(memory) == pytest.approx(measured, rel=0.20)


def test_measured_zero_3_states() -> None:
    # DeepSpeedExamples/training/bf16_master_weight: 6.86B parameters, ZeRO-3 on 4 ranks, 25.74 GiB allocated at rest.
    per_param = states(estimate(zero_stage=3, dp=4)) / LLAMA_7B.num_params
    assert per_param * 6.86e9 / GiB == pytest.approx(25.74, rel=0.02)


def test_measured_lora_run() -> None:
    # huggingface/peft method_comparison, lora--llama-3.2-3B-rank32: one device, 4 x 768 tokens, 20.76 GiB reserved.
    model, work = ModelSpec.resolve("llama-3.2-3b"), Workload(seq_len=768, global_batch=4, method="lora", lora_rank=32)
    memory = estimate(work, model, dp=1, zero_stage=1, micro_batch=4)
    assert allocated(memory) == pytest.approx(20.76, rel=0.10)


@pytest.mark.parametrize(
    ("stage", "per_param"), [(0, 2 + 2 + 12), (1, 2 + 2 + 12 / 8), (2, 2 + 2 / 8 + 12 / 8), (3, 16 / 8)]
)
def test_low_precision_states_are_those_of_the_zero_paper(stage: int, per_param: float) -> None:
    assert states(estimate(zero_stage=stage)) == pytest.approx(per_param * LLAMA_7B.num_params, rel=1e-6)


@pytest.mark.parametrize(("stage", "per_param"), [(0, 16), (1, 8 + 12 / 8), (2, 4 + 16 / 8), (3, 16 / 8)])
def test_fp32_keeps_a_second_copy_only_where_deepspeed_clones(stage: int, per_param: float) -> None:
    work = WORK.model_copy(update={"precision": "fp32"})
    assert states(estimate(work, zero_stage=stage)) == pytest.approx(per_param * LLAMA_7B.num_params, rel=1e-6)


def test_lora_pays_for_adapters_only() -> None:
    work = WORK.model_copy(update={"method": "lora"})
    memory, adapters = estimate(work, zero_stage=1), LLAMA_7B.num_trainable_params("lora", 16)
    assert memory.weights_bytes == 2 * (LLAMA_7B.num_params + adapters)
    assert memory.gradients_bytes == 2 * adapters
    assert memory.optimizer_bytes == 12 * adapters // 8


def test_offload_moves_states_to_the_host_of_each_node() -> None:
    none, optimizer, everything = (estimate(zero_stage=3, offload=o) for o in ("none", "optimizer", "all"))
    assert none.host_bytes == 0
    assert optimizer.optimizer_bytes == optimizer.gradients_bytes == 0
    assert optimizer.weights_bytes == none.weights_bytes
    assert everything.weights_bytes == 0
    # DeepSpeed's estimate_zero3_model_states_mem_needs on one node: 16 and 18 bytes per parameter x 1.5.
    assert optimizer.host_bytes == int(1.5 * 16 * LLAMA_7B.num_params)
    assert everything.host_bytes == int(1.5 * 18 * LLAMA_7B.num_params)
    two = estimate_memory(
        LLAMA_7B,
        ClusterSpec.resolve("2x8xA800-80GB"),
        workload=WORK,
        strategy=Strategy(layout=Layout(dp=16), zero_stage=3, offload="all", micro_batch=1, grad_accum=1),
    )
    assert two.host_bytes == everything.host_bytes // 2


def test_checkpointing_keeps_one_layer_and_every_input() -> None:
    kept, full = estimate(activation_checkpointing=True), estimate()
    inputs = LLAMA_7B.num_layers * 4096 * LLAMA_7B.hidden_size * 2
    assert kept.activations_bytes == inputs + full.activations_bytes // LLAMA_7B.num_layers


def test_small_models_do_not_pay_for_large_buckets() -> None:
    small = ModelSpec.resolve("smollm-135m")
    sizes = zero_buckets(small, WORK)
    assert sizes.reduce < small.num_params
    assert sizes.reduce % 2 == sizes.allgather % 2 == 0
    assert zero_buckets(ModelSpec.resolve("llama-3.1-405b"), WORK).reduce <= 500_000_000


MODELS = st.sampled_from(["smollm-135m", "llama-3.2-1b", "llama-2-7b", "llama-3.1-70b"]).map(ModelSpec.resolve)
WORKLOADS = st.builds(
    Workload,
    seq_len=st.sampled_from([256, 2048, 8192]),
    global_batch=st.just(64),
    method=st.sampled_from(["full", "lora"]),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
)
OFFLOADS = {0: ("none",), 1: ("none", "optimizer"), 2: ("none", "optimizer"), 3: ("none", "optimizer", "all")}


@given(
    model=MODELS, workload=WORKLOADS, dp=st.sampled_from([2, 4, 8, 64]), offload=st.sampled_from(["none", "optimizer"])
)
def test_more_zero_never_needs_more_states(model: ModelSpec, workload: Workload, dp: int, offload: str) -> None:
    stages = [stage for stage in range(4) if offload in OFFLOADS[stage]]
    sizes = [states(estimate(workload, model, dp=dp, zero_stage=stage, offload=offload)) for stage in stages]
    assert all(more <= less for less, more in itertools.pairwise(sizes))


@given(model=MODELS, workload=WORKLOADS, stage=st.integers(0, 3), checkpointing=st.booleans(), data=st.data())
def test_a_larger_micro_batch_never_needs_less(
    model: ModelSpec, workload: Workload, stage: int, checkpointing: bool, data: st.DataObject
) -> None:
    offload = data.draw(st.sampled_from(OFFLOADS[stage]))
    common = {"zero_stage": stage, "offload": offload, "activation_checkpointing": checkpointing}
    totals = [estimate(workload, model, micro_batch=micro, **common).total_bytes for micro in (1, 2, 4, 8, 16)]
    assert totals == sorted(totals)


@given(model=MODELS, workload=WORKLOADS, stage=st.integers(0, 3), micro=st.sampled_from([1, 8]))
def test_no_term_is_negative(model: ModelSpec, workload: Workload, stage: int, micro: int) -> None:
    memory = estimate(workload, model, zero_stage=stage, micro_batch=micro)
    assert min(getattr(memory, term) for term in MEMORY_TERMS) >= 0
