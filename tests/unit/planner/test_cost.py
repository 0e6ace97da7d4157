"""The time model: FLOPs against published counts, collectives against the ZeRO paper, and what must rank above what."""

from typing import Any

import pytest

from toolkit.planner.cost import LINK_EFFICIENCY, estimate_time, step_flops
from toolkit.planner.plan import Layout, Strategy, TimeEstimate
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

LLAMA_8B = ModelSpec.resolve("llama-3.1-8b")
WORK = Workload(seq_len=4096, global_batch=64)


def estimate(cluster: str = "8xA100-80GB", workload: Workload = WORK, **strategy: Any) -> TimeEstimate:
    machines = ClusterSpec.resolve(cluster)
    fields = {"zero_stage": 1, "micro_batch": 1, "grad_accum": 64 // machines.world_size, **strategy}
    return estimate_time(
        LLAMA_8B,
        machines,
        workload=workload,
        strategy=Strategy.model_validate({"layout": Layout(dp=machines.world_size), **fields}),
    )


def test_flops_are_six_per_weight_and_token_plus_attention() -> None:
    tokens = 64 * 4096
    flops = step_flops(LLAMA_8B, WORK, activation_checkpointing=False)
    attention = 6 * 32 * 4096 * 4096 * tokens  # 12 L h s, halved by causality
    assert flops == pytest.approx(6 * (LLAMA_8B.num_params - LLAMA_8B.embedding_params) * tokens + attention)


def test_recomputation_adds_one_forward_pass() -> None:
    once, twice = (step_flops(LLAMA_8B, WORK, activation_checkpointing=c) for c in (False, True))
    assert twice / once == pytest.approx(4 / 3)


def test_lora_saves_the_frozen_weights_gradient() -> None:
    lora = WORK.model_copy(update={"method": "lora"})
    ratio = step_flops(LLAMA_8B, lora, activation_checkpointing=False) / step_flops(
        LLAMA_8B, WORK, activation_checkpointing=False
    )
    assert 2 / 3 < ratio < 0.75


def test_published_throughput_on_a100() -> None:
    # torchtitan docs: Llama 3 8B on 64 A100-80GB, seq_len 8192, selective recomputation: 2,904 to 2,973 tokens/s/GPU.
    work = Workload(seq_len=8192, global_batch=64)
    time = estimate("8x8xA100-80GB", work, zero_stage=3, grad_accum=1)
    assert 64 * 8192 / time.step_seconds / 64 == pytest.approx(2940, rel=0.15)


def test_zero_0_sends_an_all_reduce_after_the_backward_pass() -> None:
    gradients = 2 * LLAMA_8B.num_params
    expected = 2 * (7 / 8) * gradients / (LINK_EFFICIENCY * 300e9)
    assert estimate(zero_stage=0).communication_seconds == pytest.approx(expected)


def test_the_slower_link_binds_over_nodes() -> None:
    one, two = estimate("8xA100-80GB", zero_stage=0), estimate("2x8xA100-80GB", zero_stage=0)
    network, nvlink = 8 * 25e9, 300e9
    assert two.communication_seconds / one.communication_seconds == pytest.approx(
        (15 / 16) / (7 / 8) * nvlink / network
    )


def test_a_single_rank_sends_nothing() -> None:
    for stage in range(4):
        assert estimate("1xA100-80GB", zero_stage=stage).communication_seconds == 0


def test_nothing_hides_on_a_cpu() -> None:
    time = estimate("2xcpu", WORK.model_copy(update={"precision": "fp32"}), zero_stage=1)
    # Reduce-scatter and all-gather of 4 bytes per parameter between two ranks.
    expected = 2 * (1 / 2) * 4 * LLAMA_8B.num_params / (LINK_EFFICIENCY * 5e9)
    assert time.communication_seconds == pytest.approx(expected)


def test_each_offload_is_slower_than_less_of_it() -> None:
    none, optimizer, everything = (estimate(zero_stage=3, offload=o) for o in ("none", "optimizer", "all"))
    assert none.offload_seconds == 0
    assert none.step_seconds < optimizer.step_seconds < everything.step_seconds


def test_larger_micro_batches_are_not_slower() -> None:
    steps = [estimate(zero_stage=2, micro_batch=m, grad_accum=8 // m).step_seconds for m in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)


def test_terms_sum_to_the_step() -> None:
    time = estimate(zero_stage=3, offload="all")
    parts = time.compute_seconds + time.communication_seconds + time.offload_seconds
    assert time.step_seconds == parts > 0
