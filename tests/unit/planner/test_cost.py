"""The time model as a whole: published step times, and what must hold of every set-up."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.planner.cost import estimate_time, hardware_flops, model_flops
from toolkit.planner.estimates import TIME_TERMS
from toolkit.planner.profile import profiles
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec

LLAMA_8B = Shape.of(ModelSpec.resolve("llama-3.1-8b"))


def setup_of(
    model: str | Shape = LLAMA_8B, cluster: str = "8xA100-80GB", profile: str = "hf-deepspeed", **fields: Any
) -> Setup:
    shape = Shape.of(ModelSpec.resolve(model)) if isinstance(model, str) else model
    machines = ClusterSpec.resolve(cluster)
    given = {"seq_len": 4096, "micro_batch": 1, **fields}
    if "dp" not in given:
        inside = given.get("tp", 1) * given.get("pp", 1) * given.get("sp", 1) * given.get("cp", 1)
        given["dp"] = machines.world_size // inside
    return Setup(shape=shape, cluster=machines, profile=profiles()[profile], **given)


def gpt(num_layers: int, hidden: int, num_heads: int, vocab: int = 51_200) -> Shape:
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        query=hidden,
        key_value=hidden,
        ffn=4 * hidden,
        vocab=vocab,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        layer_params=12 * hidden**2 + 13 * hidden,
        tied=True,
        gated=False,
    )


def tokens_per_second(setup: Setup) -> float:
    """Per device."""
    tokens = setup.seq_len * setup.micro_batch * setup.grad_accum * setup.dp
    return tokens / estimate_time(setup).step_seconds / setup.world_size


GPT_22B, GPT_175B = gpt(48, 6144, 64), gpt(96, 12288, 96)
GPT_530B, GPT_1T = gpt(105, 20480, 128), gpt(128, 25600, 160)


@pytest.mark.parametrize(
    ("shape", "layout", "checkpointing", "seconds"),
    [
        (GPT_22B, {"micro_batch": 4}, "full", 1.42),
        (GPT_22B, {"micro_batch": 4}, "selective", 1.10),
        (GPT_175B, {"pp": 8, "vpp": 3, "grad_accum": 64}, "full", 18.13),
        (GPT_175B, {"pp": 8, "vpp": 3, "grad_accum": 64}, "selective", 13.75),
        (GPT_530B, {"pp": 35, "vpp": 3, "grad_accum": 280}, "full", 49.05),
        (GPT_530B, {"pp": 35, "vpp": 3, "grad_accum": 280}, "selective", 37.83),
        (GPT_1T, {"pp": 64, "grad_accum": 512}, "full", 94.42),
        (GPT_1T, {"pp": 64, "grad_accum": 512}, "selective", 71.49),
    ],
)
def test_megatron_on_a100(shape: Shape, layout: dict[str, int], checkpointing: str, seconds: float) -> None:
    # Korthikanti et al., 2205.05198, table 5; A100-80GB, tensor parallelism 8; nothing was fitted to it.
    setup = setup_of(
        shape,
        f"{layout.get('pp', 1)}x8xA100-80GB",
        "megatron",
        tp=8,
        seq_len=2048,
        precision="fp16",
        flash_attention=False,
        checkpointing=checkpointing,
        **{"micro_batch": 1, **layout},
    )
    assert estimate_time(setup).step_seconds == pytest.approx(seconds, rel=0.10)


@pytest.mark.parametrize(
    ("model", "cluster", "fields", "published"),
    [
        # pytorch/torchtitan@3faaa1a0d docs/performance.md
        ("llama-3.1-8b", "8x8xA100-80GB", {"checkpointing": "selective"}, 2973),
        ("llama-3.1-70b", "8x8xA100-80GB", {"checkpointing": "full"}, 331),
        # pytorch/torchtitan@b5bcd76c66 benchmarks/llama3_h100_202412_torchtitan.md, table 3, compiled
        ("llama-3.1-8b", "16x8xH100-96GB", {"checkpointing": "selective", "micro_batch": 2}, 6514),
        ("llama-3.1-8b", "16x8xH100-96GB", {"checkpointing": "selective", "micro_batch": 2, "precision": "fp8"}, 8380),
    ],
)
def test_torchtitan(model: str, cluster: str, fields: dict[str, Any], published: float) -> None:
    setup = setup_of(model, cluster, "torchtitan", zero_stage=3, seq_len=8192, **fields)
    assert tokens_per_second(setup) == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(
    ("shape", "layout", "milliseconds"),
    [
        # VIA-Research/vTrain@f8dda847, measured steps of one node of A100.
        (gpt(24, 2048, 16), {"micro_batch": 4, "grad_accum": 2, "dp": 2, "pp": 2}, 410.5),
        (gpt(20, 2048, 16), {"micro_batch": 2, "grad_accum": 4, "tp": 4, "pp": 2, "dp": 1}, 160.6),
        (gpt(24, 2048, 16), {"micro_batch": 2, "grad_accum": 2, "dp": 4}, 304.2),
        (gpt(12, 1024, 16), {"micro_batch": 1, "grad_accum": 16, "tp": 2, "dp": 4}, 700.4),
        (gpt(16, 1024, 16), {"micro_batch": 1, "grad_accum": 8, "pp": 4, "dp": 1}, 185.7),
    ],
)
def test_megatron_deepspeed_on_one_node(shape: Shape, layout: dict[str, int], milliseconds: float) -> None:
    # The last two are bound by the host that launches kernels, not by the device.
    ranks = layout.get("dp", 1) * layout.get("tp", 1) * layout.get("pp", 1)
    setup = setup_of(
        shape,
        f"{ranks}xA100-40GB",
        "megatron-deepspeed",
        seq_len=1024,
        precision="fp16",
        flash_attention=False,
        **layout,
    )
    assert estimate_time(setup).step_seconds * 1000 == pytest.approx(milliseconds, rel=0.20)


def test_model_flops_are_palms() -> None:
    # 2204.02311, appendix B: 6 N + 12 L H Q T per token, N without the input embedding.
    setup = setup_of(grad_accum=8)
    params = LLAMA_8B.num_params - LLAMA_8B.embedding_params - LLAMA_8B.hidden
    per_token = 6 * params + 12 * 32 * 4096 * 4096
    assert model_flops(setup) == pytest.approx(per_token * 8 * 8 * 4096)


def test_hardware_flops_follow_what_is_executed() -> None:
    plain = setup_of()
    full, lora = plain._replace(checkpointing="full"), plain._replace(method="lora")
    assert 1.25 < hardware_flops(full) / hardware_flops(plain) < 4 / 3
    assert 2 / 3 < hardware_flops(lora) / hardware_flops(plain) < 0.75


def test_bubble_of_1f1b_and_interleaved() -> None:
    # 2104.04473, 2.2: (p-1)/m of the work of one stage, divided by the chunks.
    shape = gpt(256, 4096, 32, vocab=1)
    setup = setup_of(shape, "8xA100-80GB", "megatron", pp=8, grad_accum=32, dp=1)
    for vpp in (1, 4):
        time = estimate_time(setup._replace(vpp=vpp))
        work = time.compute_seconds + time.recompute_seconds + time.overhead_seconds
        assert time.bubble_seconds / work == pytest.approx(7 / 32 / vpp, rel=0.01)


def test_the_head_slows_the_last_stage() -> None:
    small, large = (gpt(8, 1024, 16, vocab) for vocab in (1000, 256_000))
    times = [
        estimate_time(setup_of(shape, "4xA100-80GB", "megatron", pp=4, dp=1, grad_accum=64)) for shape in (small, large)
    ]
    assert times[1].bubble_seconds > 5 * times[0].bubble_seconds


def test_recomputation_costs_a_forward_pass() -> None:
    shape = gpt(32, 4096, 32, vocab=1)
    plain, again = (estimate_time(setup_of(shape, checkpointing=checkpointing)) for checkpointing in ("none", "full"))
    assert plain.recompute_seconds == 0
    assert again.recompute_seconds / plain.compute_seconds == pytest.approx(1 / 3, rel=0.05)


def test_lora_saves_the_frozen_weights_gradient() -> None:
    full, lora = (estimate_time(setup_of(micro_batch=4, method=method)) for method in ("full", "lora"))
    assert 2 / 3 < lora.compute_seconds / full.compute_seconds < 0.85
    assert lora.optimizer_seconds < 0.01 * full.optimizer_seconds


def test_qlora_pays_for_dequantisation() -> None:
    lora, qlora = (estimate_time(setup_of(method=method)) for method in ("lora", "qlora"))
    passes = 2 * 4.5 * 32 * LLAMA_8B.layer_matmul / (0.85 * 2039e9)
    assert qlora.compute_seconds - lora.compute_seconds == pytest.approx(passes, rel=0.01)


def test_offload_is_nothing_where_nothing_is_offloaded() -> None:
    assert estimate_time(setup_of(zero_stage=2)).offload_seconds == 0


def test_optimizer_offload_moves_gradients_down_and_weights_up() -> None:
    # 2101.06840, 4.1: 2 bytes per parameter each way, divided over the ranks; PCIe 4.0 at 0.8 of 31.5 GB/s.
    time = estimate_time(setup_of(zero_stage=2, offload="optimizer"))
    assert time.offload_seconds == pytest.approx(4 * LLAMA_8B.num_params / 8 / (0.8 * 31.5e9), rel=0.01)
    assert time.optimizer_seconds == pytest.approx(28 * LLAMA_8B.num_params / 150e9, rel=0.01)


def test_a_disk_is_slower_than_host_memory() -> None:
    cpu, disk = (estimate_time(setup_of(zero_stage=3, offload="all", offload_to=place)) for place in ("cpu", "nvme"))
    assert disk.offload_seconds > cpu.offload_seconds


def test_tensor_parallelism_over_nodes_is_slow() -> None:
    inside, across = (
        estimate_time(setup_of("llama-3.1-70b", "4x8xH100-80GB", "megatron", tp=tp, micro_batch=4)) for tp in (8, 16)
    )
    assert across.tp_seconds > 1.5 * inside.tp_seconds


SETUPS = st.builds(
    dict,
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 4]),
    grad_accum=st.sampled_from([1, 4, 16]),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
    micro_batch=st.sampled_from([1, 4]),
    seq_len=st.sampled_from([512, 8192]),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
    offload=st.sampled_from(["none", "optimizer", "all"]),
    method=st.sampled_from(["full", "lora", "qlora"]),
    profile=st.sampled_from(sorted(profiles())),
)


@given(fields=SETUPS)
@settings(max_examples=150, deadline=None)
def test_terms_are_never_negative_and_sum(fields: dict[str, Any]) -> None:
    time = estimate_time(setup_of(cluster="8x8xH100-80GB", **fields))
    terms = [getattr(time, term) for term in TIME_TERMS]
    assert min(terms) >= 0
    assert time.compute_seconds > 0
    assert sum(terms) == pytest.approx(time.step_seconds)


RATES = ("memory_bandwidth", "intra_node_bandwidth", "bf16_flops", "host_bandwidth", "inter_node_bandwidth")


@given(fields=SETUPS, rate=st.sampled_from(RATES), factor=st.floats(min_value=1.0, max_value=8.0))
@settings(max_examples=150, deadline=None)
def test_a_faster_machine_is_never_slower(fields: dict[str, Any], rate: str, factor: float) -> None:
    setup = setup_of(cluster="8x8xH100-80GB", **fields)
    cluster = setup.cluster
    if rate == "inter_node_bandwidth":
        faster = cluster.model_copy(update={rate: cluster.inter_node_bandwidth * factor})
    else:
        device = cluster.device.model_copy(update={rate: getattr(cluster.device, rate) * factor})
        faster = cluster.model_copy(update={"device": device})
    assert estimate_time(setup._replace(cluster=faster)).step_seconds <= estimate_time(setup).step_seconds * (1 + 1e-9)


@given(fields=SETUPS)
@settings(max_examples=50, deadline=None)
def test_more_micro_batches_take_longer(fields: dict[str, Any]) -> None:
    setup = setup_of(cluster="8x8xH100-80GB", **fields)
    twice = setup._replace(grad_accum=2 * setup.grad_accum)
    assert estimate_time(twice).step_seconds > estimate_time(setup).step_seconds
