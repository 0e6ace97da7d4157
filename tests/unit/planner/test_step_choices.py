"""How a step is computed: what the laws make of loss, checkpointed layers and attention, and what is refused."""

from typing import Any

import pytest

import toolkit
from toolkit.errors import SpecError
from toolkit.planner.api import estimate
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.cost.flops import hardware_flops
from toolkit.planner.memory import estimate_memory
from toolkit.planner.memory.activations import kept_bytes, logits_bytes, micro_batch_bytes, score_bytes
from toolkit.planner.memory.host import activations_on_host
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup, num_checkpointed
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

MODEL = ModelSpec.resolve("llama-3.1-8b")
CLUSTER = ClusterSpec.resolve("8xA100-80GB")
WORK = Workload(seq_len=4096, global_batch=64)


def setup(*, work: dict[str, Any] | None = None, **given: Any) -> Setup:
    fields = {"zero_stage": 2, "micro_batch": 2, "grad_accum": 4, "layout": {"dp": 8}, **given}
    workload = WORK.model_copy(update=work or {})
    return setup_of(MODEL, CLUSTER, workload=workload, strategy=Strategy.model_validate(fields))


def test_a_chunked_loss_takes_a_part_of_the_logits() -> None:
    whole, chunked = setup(), setup(work={"loss": "chunked"})
    # 8,192 tokens x 128,256 x 14 bytes; 2,048 columns at a time, and the head's gradient.
    assert logits_bytes(whole, 0) == 14.0 * 8192 * 128_256
    block = 8192 * (6 * 2048 + 6 * 4096)
    assert logits_bytes(chunked, 0) == block + 2 * 128_256 * 4096
    assert estimate_memory(chunked).total_bytes < estimate_memory(whole).total_bytes
    # Of four products in the place of three, and no other.
    slower = estimate_time(chunked).step_seconds / estimate_time(whole).step_seconds
    assert 1.0 < slower < 1.1


def test_a_frozen_head_has_no_gradient() -> None:
    assert logits_bytes(setup(work={"loss": "chunked", "method": "lora"}), 0) == 8192 * (6 * 2048 + 6 * 4096)


def test_a_divided_head_has_its_part_of_the_columns() -> None:
    divided = setup(work={"loss": "chunked"}, layout={"dp": 1, "tp": 8}, zero_stage=1, micro_batch=16)
    tokens, columns = 16 * 4096, 128_256 // 8
    expected = tokens * (6 * 1024 + 6 * 4096) + 2 * columns * 4096
    assert logits_bytes(divided, 0) == max(expected, tokens * (2 * 1024 + 8 * 4096) + 2 * columns * 4096)


def test_every_kth_layer() -> None:
    assert [num_checkpointed(0, 32, every=k) for k in (1, 2, 3, 32, 33)] == [32, 16, 11, 1, 1]
    assert sum(num_checkpointed(low, low + 7, every=3) for low in (0, 7, 14)) == num_checkpointed(0, 21, every=3)
    none, full = setup(), setup(activation_checkpointing="full")
    some = {k: setup(activation_checkpointing="full", checkpointing_every=k) for k in (2, 4, 16)}
    kept = [kept_bytes(one, 0) for one in (full, *some.values(), none)]
    assert kept == sorted(kept)
    one = micro_batch_bytes(some[4])
    assert kept_bytes(some[4], 0) == 8 * one.kept + 24 * one.whole + one.outside
    assert one.kept == micro_batch_bytes(full).kept
    assert one.whole == micro_batch_bytes(none).kept
    again = {k: estimate_time(one).recompute_seconds for k, one in some.items()}
    whole = estimate_time(full).recompute_seconds
    assert again == pytest.approx({k: whole / k for k in some})
    flops = [hardware_flops(one) for one in (none, *reversed(some.values()), full)]
    assert flops == sorted(flops)


def test_selective_keeps_what_products_and_attention_give() -> None:
    none, selective, full = (setup(activation_checkpointing=mode) for mode in ("none", "selective", "full"))
    one = micro_batch_bytes(selective)
    # Input, o; q, attention; k, v; gate, up: 2 bytes each.
    assert one.kept == 2 * 8192 * (2 * 4096 + 2 * 4096 + 2 * 1024 + 2 * 14_336)
    # At work a layer is whole again.
    gone = micro_batch_bytes(none).kept - one.kept
    assert one.working - micro_batch_bytes(none).working == gone
    again = [estimate_time(each).recompute_seconds for each in (none, selective, full)]
    assert again[0] == 0
    assert again[1] < again[2] / 5
    assert hardware_flops(selective) == hardware_flops(none)
    every = setup(activation_checkpointing="selective", checkpointing_every=4)
    assert kept_bytes(every, 0) == 8 * one.kept + 24 * micro_batch_bytes(none).kept + one.outside
    assert (
        "selective checkpointing of every 4th layer"
        in Strategy.model_validate(
            {"layout": {"dp": 8}, "zero_stage": 2, "micro_batch": 2, "grad_accum": 4}
            | {"activation_checkpointing": "selective", "checkpointing_every": 4}
        ).words
    )


def test_selective_adds_up_again_what_tensor_parallel_ranks_share() -> None:
    divided = {"layout": {"dp": 4, "tp": 2}, "zero_stage": 1}
    none, selective, full = (setup(activation_checkpointing=mode, **divided) for mode in ("none", "selective", "full"))
    inside = 2 * 4096 + 2 * 1024 + 2 * 14_336
    assert micro_batch_bytes(selective).kept == 2 * 8192 * (4096 + inside / 2)
    sent = [estimate_time(each).tp_seconds for each in (none, selective, full)]
    assert sent[1] - sent[0] == pytest.approx((sent[2] - sent[0]) / 2)
    product = 2 * 4096 * 4096 * 32 * (4 * 2 * 4 * 4096)
    assert hardware_flops(selective) - hardware_flops(none) == product


def test_memory_of_a_stage_follows_from_its_own_layers() -> None:
    """Layers 0, 3, 6, ... of 32 on two stages of 16: 6 and 5 of them."""
    pipeline = {"engine": "pipeline", "layout": {"dp": 4, "pp": 2}, "zero_stage": 1, "stages": (16, 16)}
    staged = setup(activation_checkpointing="full", checkpointing_every=3, **pipeline)
    one = micro_batch_bytes(staged)
    assert kept_bytes(staged, 0) == 2 * (6 * one.kept + 10 * one.whole + one.outside)
    assert kept_bytes(staged, 1) == 5 * one.kept + 11 * one.whole + one.outside


def test_checkpoints_on_the_host() -> None:
    device = setup(activation_checkpointing="full")
    host = setup(activation_checkpointing="full", offload_activations="cpu")
    inputs = 32 * 2 * 4096 * 2 * 4096
    assert kept_bytes(device, 0) - kept_bytes(host, 0) == inputs
    assert activations_on_host(host) == 1.5 * 8 * inputs
    assert estimate_memory(host).host_bytes == 1.5 * 8 * inputs
    assert estimate_time(host).offload_seconds > estimate_time(device).offload_seconds == 0.0
    on_cpu = estimate("smollm-135m", "2xcpu", work=cpu_work(), strategy={"offload_activations": "cpu"})
    assert on_cpu.memory.host_bytes == 0
    assert any(told.startswith("offload_activations=cpu changes nothing here") for told in on_cpu.reasons)


def cpu_work(**more: Any) -> dict[str, Any]:
    return {"seq_len": 512, "global_batch": 8, **more}


def test_eager_attention_keeps_scores() -> None:
    assert score_bytes(setup()) == 0.0
    assert score_bytes(setup(work={"attention": "eager"})) > 0.0


@pytest.mark.parametrize(
    ("cluster", "choices", "told"),
    [
        ("8xA100-80GB", {"checkpointing_every": 2, "activation_checkpointing": "none"}, "no layer is checkpointed"),
        (
            "8xA100-80GB",
            {"tp": 2, "activation_checkpointing": "selective", "compile": True},
            "takes no operation in place",
        ),
        ("8xA100-80GB", {"checkpointing_every": 99}, "exceeds the model's 32 layers; use 1 to 32"),
        ("8xA100-80GB", {"offload_activations": "cpu", "activation_checkpointing": "none"}, "use full"),
        (
            "8xA100-80GB",
            {"compile": True, "zero_stage": 3},
            "compile=true with zero_stage=3: .+ use zero_stage=2 or less",
        ),
        ("8xA100-80GB", {"attention": "eager", "sp": 2}, "attention=eager with sp=2: .+ use attention=sdpa, or sp=1"),
        ("2xcpu", {"attention": "flash_attention_2", "precision": "bf16"}, "flash-attn has kernels for GPUs"),
        ("8xA100-80GB", {"attention": "flash_attention_2", "precision": "fp32"}, "in 16 bits, not in fp32"),
        ("8xA100-80GB", {"attention": "flash_attention_2", "pp": 2, "engine": "pipeline"}, "masks that flash-attn"),
        ("8xA100-80GB", {"loss": "chunked", "engine": "mcore"}, "loss=chunked: engine mcore has a loss of its own"),
    ],
)
def test_what_does_not_go_together_is_refused(cluster: str, choices: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        toolkit.plan("llama-3.1-8b", cluster, seq_len=4096, global_batch=64, **choices)


def test_the_search_leaves_out_what_does_not_go_together() -> None:
    made = toolkit.plan("llama-2-13b", "8xA100-80GB", seq_len=4096, global_batch=64, compile=True)
    assert made.strategy.zero_stage < 3
    assert any("not compiled" in told for told in made.reasons)


@pytest.mark.parametrize(
    ("method", "optimizer", "warned"), [("lora", "adafactor", 1), ("full", "adafactor", 0), ("lora", "adamw", 0)]
)
def test_adapters_hardly_move_with_adafactor(method: str, optimizer: str, warned: int) -> None:
    work = {"seq_len": 4096, "global_batch": 64, "method": method, "optimizer": optimizer}
    found = [
        toolkit.plan("llama-3.2-1b", "8xA100-80GB", **work).reasons,
        estimate("llama-3.2-1b", "8xA100-80GB", work=work, strategy={"zero_stage": 2, "micro_batch": 1}).reasons,
    ]
    assert [sum("B begins at 0" in told for told in reasons) for reasons in found] == [warned] * 2


def test_parts_of_checkpointing_mean_checkpointing() -> None:
    made = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64, checkpointing_every=4)
    assert made.strategy.activation_checkpointing == "full"
    assert made.strategy.checkpointing_every == 4
    assert "checkpointing of every 4th layer" in made.strategy.words
    assert "--checkpointing full --checkpointing-every 4" in " ".join(made.fixed.options())
    assert Fixed.of(made.strategy).recompute == (4, "none")


def test_a_chunked_loss_is_named_where_nothing_fits() -> None:
    from toolkit.errors import NoFeasiblePlan

    with pytest.raises(NoFeasiblePlan, match="loss chunked instead of full: ZeRO"):
        toolkit.plan("llama-3.2-1b", "RTX4090", seq_len=16384, global_batch=1, zero_stage=1, micro_batch=1)


def test_a_plan_of_before_loads_as_it_was() -> None:
    made = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64)
    content = made.model_dump(mode="json")
    for name in ("loss", "attention", "compile"):
        del content["workload"][name]
    for strategy in [
        content["strategy"],
        *(one["strategy"] for key in ("alternatives", "pareto") for one in content[key]),
    ]:
        del strategy["checkpointing_every"], strategy["offload_activations"]
    assert Plan.parse(content, source="plan.json") == made
