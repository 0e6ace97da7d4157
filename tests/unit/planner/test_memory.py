"""The memory model: its terms, how they move, and published measurements."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.planner.buckets import zero_buckets
from toolkit.planner.estimates import MEMORY_TERMS, MemoryEstimate
from toolkit.planner.memory import estimate_memory
from toolkit.planner.memory.activations import kept_bytes, layer_bytes, working_bytes
from toolkit.planner.memory.estimate import instants
from toolkit.planner.memory.stages import layers_in_flight, split_layers
from toolkit.planner.memory.states import states_of
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import NF4_BYTES, Setup
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload
from toolkit.units import GiB

LLAMA_7B = ModelSpec.resolve("llama-2-7b")
A800 = ClusterSpec.resolve("8xA800-80GB")
WORK = Workload(seq_len=4096, global_batch=64)


def setup(
    workload: Workload = WORK, model: ModelSpec = LLAMA_7B, *, cluster: ClusterSpec = A800, **given: Any
) -> Setup:
    degrees = {name: given.pop(name) for name in ("tp", "pp", "sp", "cp") if name in given}
    layout = {"dp": given.pop("dp", 8), **degrees}
    fields = {"zero_stage": 2, "micro_batch": 1, "grad_accum": 1, "layout": layout, **given}
    return setup_of(model, cluster, workload=workload, strategy=Strategy.model_validate(fields))


def estimate(workload: Workload = WORK, model: ModelSpec = LLAMA_7B, **given: Any) -> MemoryEstimate:
    return estimate_memory(setup(workload, model, **given))


def states(memory: MemoryEstimate) -> int:
    return memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes


def held(workload: Workload = WORK, model: ModelSpec = LLAMA_7B, **given: Any) -> float:
    """Weights, gradients and optimizer states, whatever the instant of the peak."""
    one = states_of(setup(workload, model, **given), 0)
    return one.weights + one.gradients + one.optimizer


def test_the_named_terms_are_the_total() -> None:
    memory = estimate()
    assert memory.total_bytes == sum(getattr(memory, term) for term in MEMORY_TERMS)
    assert memory.allocated_bytes + memory.fragmentation_bytes == memory.reserved_bytes
    assert memory.reserved_bytes + memory.context_bytes == memory.total_bytes


# LLaMA-2-7B, seq_len 4096, 8 x A800-80GB, GiB: the published ZeRO table whose micro-batch and checkpointing are given.
@pytest.mark.parametrize(
    ("stage", "offload", "checkpointing", "micro_batch", "measured"),
    [
        (2, "none", "none", 1, 44.8),
        (2, "none", "full", 1, 23.5),
        (2, "optimizer", "full", 1, 16.9),
        (3, "none", "none", 2, 75.7),
        (3, "none", "full", 2, 20.4),
    ],
)
def test_measured_runs(stage: int, offload: str, checkpointing: str, micro_batch: int, measured: float) -> None:
    memory = estimate(
        zero_stage=stage, offload=offload, activation_checkpointing=checkpointing, micro_batch=micro_batch
    )
    assert memory.reserved_bytes / GiB == pytest.approx(measured, rel=0.20)


def test_measured_zero_3_states() -> None:
    # DeepSpeedExamples/training/bf16_master_weight: 6.86B parameters, ZeRO-3 on 4 ranks, 25.74 GiB allocated at rest.
    per_param = held(zero_stage=3, dp=4) / LLAMA_7B.num_params
    assert per_param * 6.86e9 / GiB == pytest.approx(25.74, rel=0.02)


def test_measured_lora_run() -> None:
    # huggingface/peft method_comparison, lora--llama-3.2-3B-rank32 (q and v): one device, 4 x 768 tokens, 20.76 GiB
    # reserved; the batch of the peak is not padded.
    model, work = ModelSpec.resolve("llama-3.2-3b"), Workload(seq_len=768, global_batch=4, method="lora", lora_rank=32)
    run = setup(work, model, dp=1, zero_stage=1, micro_batch=4)
    memory = estimate_memory(run._replace(lora_targets=("q_proj", "v_proj"), pads=False))
    assert memory.reserved_bytes / GiB == pytest.approx(20.76, rel=0.10)


@pytest.mark.parametrize(
    ("stage", "per_param"), [(0, 2 + 2 + 12), (1, 2 + 2 + 12 / 8), (2, 2 + 2 / 8 + 12 / 8), (3, 16 / 8)]
)
def test_low_precision_states_are_those_of_the_zero_paper(stage: int, per_param: float) -> None:
    assert held(zero_stage=stage) == pytest.approx(per_param * LLAMA_7B.num_params, rel=1e-6)


@pytest.mark.parametrize(("stage", "per_param"), [(0, 16), (1, 8 + 12 / 8), (2, 4 + 16 / 8), (3, 16 / 8)])
def test_fp32_keeps_a_second_copy_only_where_deepspeed_clones(stage: int, per_param: float) -> None:
    work = WORK.model_copy(update={"precision": "fp32"})
    assert held(work, zero_stage=stage) == pytest.approx(per_param * LLAMA_7B.num_params, rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "moments"), [("adamw", 8), ("lion", 4), ("sgd", 4), ("adafactor", 0), ("muon", 4), ("paged_adamw", 0)]
)
def test_optimizers_keep_their_own_moments_beside_the_master_weight(optimizer: str, moments: int) -> None:
    work = WORK.model_copy(update={"optimizer": optimizer})
    one = states_of(setup(work, zero_stage=1), 0)
    assert one.optimizer == pytest.approx((4 + moments) * LLAMA_7B.num_params / 8, rel=1e-6)


def test_lora_pays_for_adapters_only() -> None:
    work = WORK.model_copy(update={"method": "lora"})
    one, adapters = states_of(setup(work, zero_stage=1), 0), LLAMA_7B.num_trainable_params("lora", 16)
    assert one.weights == 2 * (LLAMA_7B.num_params + adapters)
    assert one.gradients == 2 * adapters
    assert one.optimizer == 12 * adapters / 8


def test_qlora_quantises_the_layers_and_not_the_ends() -> None:
    # 2305.14314: 4 bits, and 0.127 bits of scales after double quantisation, for the linear layers.
    work = WORK.model_copy(update={"method": "qlora"})
    weights, adapters = states_of(setup(work), 0).weights, LLAMA_7B.num_trainable_params("lora", 16)
    layers, ends = LLAMA_7B.num_layers * LLAMA_7B.layer_params, 2 * LLAMA_7B.embedding_params + LLAMA_7B.hidden_size
    bits = 8 * NF4_BYTES
    assert bits == pytest.approx(4.127, abs=1e-3)
    assert weights == pytest.approx(NF4_BYTES * layers + 2 * ends + 2 * adapters, rel=1e-6)
    dequantised = 2 * LLAMA_7B.hidden_size * LLAMA_7B.intermediate_size
    assert (
        estimate(work).buffers_bytes - estimate(WORK.model_copy(update={"method": "lora"})).buffers_bytes == dequantised
    )


def test_offload_moves_states_to_the_host_of_each_node() -> None:
    none, optimizer, everything = (estimate(zero_stage=3, offload=o) for o in ("none", "optimizer", "all"))
    assert none.host_bytes == 0
    assert optimizer.optimizer_bytes == optimizer.gradients_bytes == 0
    assert optimizer.weights_bytes == none.weights_bytes
    assert everything.weights_bytes == 0
    # DeepSpeed's estimate_zero3_model_states_mem_needs on one node: 16 and 18 bytes per parameter x 1.5.
    assert optimizer.host_bytes == int(1.5 * 16 * LLAMA_7B.num_params)
    assert everything.host_bytes == int(1.5 * 18 * LLAMA_7B.num_params)
    two = estimate(cluster=ClusterSpec.resolve("2x8xA800-80GB"), dp=16, zero_stage=3, offload="all")
    assert two.host_bytes == everything.host_bytes // 2
    disk = estimate(zero_stage=3, offload="all", offload_to="nvme")
    assert disk.disk_bytes == 18 * LLAMA_7B.num_params
    assert disk.host_bytes < everything.host_bytes // 5
    assert disk.total_bytes == everything.total_bytes


def test_checkpointing_keeps_one_layer_and_every_input() -> None:
    plain, full = setup(), setup(activation_checkpointing="full")
    residual = 4096 * LLAMA_7B.hidden_size * 2
    assert kept_bytes(full, 0) == LLAMA_7B.num_layers * residual + residual
    assert kept_bytes(plain, 0) == LLAMA_7B.num_layers * layer_bytes(plain) + residual
    # The layer that is recomputed is there as a whole while its backward pass runs.
    assert working_bytes(full) - working_bytes(plain) == layer_bytes(plain) == layer_bytes(full)


def test_selective_checkpointing_lies_between_none_and_full() -> None:
    common = {"engine": "mcore", "zero_stage": 1, "grad_accum": 4}
    sizes = [estimate(activation_checkpointing=mode, **common).total_bytes for mode in ("full", "selective", "none")]
    assert sizes == sorted(sizes)


def test_small_models_do_not_pay_for_large_buckets() -> None:
    small = ModelSpec.resolve("smollm-135m")
    sizes = zero_buckets(small, WORK)
    assert sizes.reduce < small.num_params
    assert sizes.reduce % 2 == sizes.allgather % 2 == 0
    assert zero_buckets(ModelSpec.resolve("llama-3.1-405b"), WORK).reduce <= 500_000_000


def test_the_peak_is_the_largest_instant_and_not_a_sum() -> None:
    one = setup(grad_accum=2)
    states_there, memory = states_of(one, 0), estimate_memory(one)
    moments = instants(one, 0, states_there)
    assert [moment.name for moment in moments] == [
        "second micro-batch, last forward",
        "second micro-batch, first backward",
        "end of backward",
        "optimizer step",
    ]
    largest = max(moments, key=lambda moment: moment.size)
    assert memory.instant == largest.name
    assert memory.allocated_bytes == pytest.approx(states_there.weights + states_there.optimizer + largest.size, abs=8)
    for moment in moments:
        assert moment.size == pytest.approx(sum(moment[2:]))


def test_gradients_of_earlier_micro_batches_meet_the_forward_pass() -> None:
    first, second = estimate(zero_stage=1, grad_accum=1), estimate(zero_stage=1, grad_accum=2)
    assert second.total_bytes > first.total_bytes
    assert second.instant.startswith("second micro-batch")
    assert not first.instant.startswith("second micro-batch")


def test_stages_of_a_pipeline_hold_what_1f1b_leaves_in_flight() -> None:
    common = {"engine": "mcore", "zero_stage": 1, "pp": 4, "dp": 2, "grad_accum": 8}
    one = setup(**common)
    assert [layers_in_flight(one, stage) for stage in range(4)] == [32, 24, 16, 8]
    # Interleaved with 2 chunks of 4 layers: 2 (pp - stage - 1) + (vpp - 1) pp + 1 chunks.
    assert [layers_in_flight(setup(vpp=2, **common), stage) for stage in range(4)] == [44, 36, 28, 20]
    assert [layers_in_flight(one._replace(grad_accum=2), stage) for stage in range(4)] == [16, 16, 16, 8]
    stages = [estimate_memory(one, stage) for stage in range(4)]
    assert [memory.stage for memory in stages] == [0, 1, 2, 3]
    assert estimate_memory(one).total_bytes == max(memory.total_bytes for memory in stages)
    assert [memory.logits_bytes > 0 for memory in stages if memory.instant.endswith("last forward")].count(True) <= 1


def test_layers_are_divided_over_stages_by_rule() -> None:
    assert split_layers(126, 16, rule="even") == (7, *(8,) * 14, 7)
    # nanotron counts the head: the last stages get fewer.
    by_cost = split_layers(24, 16, rule="by_cost", head_cost=2.0)
    assert sum(by_cost) == 24
    assert by_cost[0] == 2
    assert by_cost[-1] < by_cost[0]


@pytest.mark.parametrize("degree", ["tp", "pp", "sp", "cp"])
def test_dividing_a_replica_lowers_what_a_rank_holds(degree: str) -> None:
    engine = "zero" if degree == "sp" else "mcore"
    common = {"engine": engine, "zero_stage": 1, "grad_accum": 4}
    whole, divided = estimate(dp=8, **common), estimate(dp=4, **{degree: 2}, **common)
    assert divided.activations_bytes + divided.logits_bytes < whole.activations_bytes + whole.logits_bytes
    if degree in ("tp", "pp"):
        assert divided.weights_bytes < whole.weights_bytes
    else:
        assert divided.weights_bytes == whole.weights_bytes


def test_probability_of_running_out() -> None:
    memory = estimate()
    total = memory.total_bytes
    assert memory.oom_probability(total) == pytest.approx(0.5)
    low, high = memory.band(total)
    assert memory.oom_probability(high) == pytest.approx(0.05, abs=1e-3)
    assert memory.oom_probability(low) == pytest.approx(0.95, abs=1e-3)


MODELS = st.sampled_from(["smollm-135m", "llama-3.2-1b", "llama-2-7b", "llama-3.1-70b"]).map(ModelSpec.resolve)
WORKLOADS = st.builds(
    Workload,
    seq_len=st.sampled_from([256, 2048, 8192]),
    global_batch=st.just(64),
    method=st.sampled_from(["full", "lora", "qlora"]),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
)
OFFLOADS = {0: ("none",), 1: ("none", "optimizer"), 2: ("none", "optimizer"), 3: ("none", "optimizer", "all")}


@given(
    model=MODELS, workload=WORKLOADS, dp=st.sampled_from([2, 4, 8, 64]), offload=st.sampled_from(["none", "optimizer"])
)
def test_more_zero_never_needs_more_states(model: ModelSpec, workload: Workload, dp: int, offload: str) -> None:
    # fp32: stages 1 and 2 keep a second copy of the weights that 0 does without.
    stages = [s for s in range(4) if offload in OFFLOADS[s] and not (s == 0 and workload.precision == "fp32")]
    sizes = [held(workload, model, dp=dp, zero_stage=stage, offload=offload) for stage in stages]
    assert all(more <= less for less, more in itertools.pairwise(sizes))


@given(
    model=MODELS, workload=WORKLOADS, stage=st.integers(0, 3), mode=st.sampled_from(["none", "full"]), data=st.data()
)
def test_a_larger_micro_batch_never_needs_less(
    model: ModelSpec, workload: Workload, stage: int, mode: str, data: st.DataObject
) -> None:
    offload = data.draw(st.sampled_from(OFFLOADS[stage]))
    common = {"zero_stage": stage, "offload": offload, "activation_checkpointing": mode}
    totals = [estimate(workload, model, micro_batch=micro, **common).total_bytes for micro in (1, 2, 4, 8, 16)]
    assert totals == sorted(totals)


@given(model=MODELS, workload=WORKLOADS, stage=st.integers(0, 3), micro=st.sampled_from([1, 8]))
def test_no_term_is_negative(model: ModelSpec, workload: Workload, stage: int, micro: int) -> None:
    memory = estimate(workload, model, zero_stage=stage, micro_batch=micro)
    assert min(getattr(memory, term) for term in MEMORY_TERMS) >= 0
