"""Published estimators: their own numbers, and sums done by hand."""

from typing import Any

import pytest

from toolkit.planner.profile import Profile
from toolkit.planner.setup import Setup, StateBytes
from toolkit.planner.shape import Shape
from toolkit.planner.validation.baselines import BASELINES, deepspeed, eleutherai, megatron, unsloth
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.validation.score import score
from toolkit.planner.validation.setups import case_of
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.units import GiB

LLAMA_7B = Shape.of(ModelSpec.resolve("llama-2-7b"))
SMALL = Shape(
    num_layers=2,
    hidden=64,
    query=64,
    key_value=32,
    ffn=256,
    vocab=256,
    num_heads=4,
    num_kv_heads=2,
    layer_params=64 * (2 * 64 + 2 * 32) + 3 * 64 * 256 + 2 * 64,
)


def setup(shape: Shape = SMALL, profile: str = "hf-deepspeed", **sizes: Any) -> Setup:
    return Setup(
        shape,
        ClusterSpec.resolve("8xA100-80GB"),
        Profile.model_construct(name=profile),
        **{"seq_len": 128, "micro_batch": 2, "dp": 8, **sizes},
    )


@pytest.mark.parametrize(
    ("stage", "offload", "published"),
    # What DeepSpeed's functions print for LLaMA-2-7B on 8 GPUs, GiB.
    [(2, "none", 26.7), (2, "optimizer", 12.6), (3, "none", 14.6), (3, "optimizer", 2.1), (3, "all", 0.5)],
)
def test_deepspeed_estimators(stage: int, offload: str, published: float) -> None:
    predicted = deepspeed.estimate_zero(setup(LLAMA_7B, zero_stage=stage, offload=offload))
    assert predicted is not None
    assert predicted / GiB == pytest.approx(published, abs=0.06)


def test_deepspeed_estimators_know_no_stage_1() -> None:
    assert deepspeed.estimate_zero(setup(zero_stage=1)) is None


@pytest.mark.parametrize(("stage", "per_param"), [(0, 20.0), (1, 4 + 16 / 8), (2, 2 + 18 / 8), (3, 20 / 8)])
def test_deepspeed_autotuner(stage: int, per_param: float) -> None:
    assert deepspeed.autotuner(setup(zero_stage=stage)) == pytest.approx(per_param * SMALL.num_params)
    assert deepspeed.autotuner(setup(zero_stage=stage, offload="optimizer")) is None


def test_accelerate_counts_four_times_fp32_or_twice_mixed() -> None:
    assert deepspeed.accelerate(setup(precision="fp32")) == 16.0 * SMALL.num_params
    assert deepspeed.accelerate(setup()) == 8.0 * SMALL.num_params
    assert deepspeed.accelerate(setup(method="lora")) is None


def test_megatron_states_by_hand() -> None:
    # Two layers with their norms, the last norm, embedding and head of a vocabulary padded to 128 x tp.
    layers = 2 * (SMALL.layer_matmul + 2 * 64) + 64
    one = setup(profile="megatron", tp=2, dp=4)
    assert megatron.states(one) == pytest.approx((layers + 2 * 256 * 64) / 2 * 18)
    two_stages = one._replace(pp=2, dp=2, zero_stage=1)
    assert megatron.states(two_stages) == pytest.approx((layers / 2 + 256 * 64) / 2 * (6 + 12 / 2))


def test_megatron_activations_by_hand() -> None:
    tokens, layers = 128 * 2, 2
    kept = tokens * 64 * (18 + 4 * 4) * layers
    one = setup(profile="megatron", tp=2, dp=4)
    inputs, logits = 8 * tokens + tokens * 64, tokens * 64 * 4 * (1 + 256 / 64)
    assert megatron.activations(one) == pytest.approx((kept + inputs + logits) / 2)
    # Four stages, two micro-batches: half of the four are in flight.
    staged = one._replace(pp=4, dp=1, grad_accum=2)
    assert megatron.activations(staged) == pytest.approx((kept + 4 * inputs) / 2 * 0.5)
    interleaved = staged._replace(vpp=2)
    assert megatron.activations(interleaved) == pytest.approx((kept + 4 * inputs) / 2 * (1 + 3 / 8))
    assert megatron.activations(one._replace(cp=2)) == pytest.approx(megatron.activations(one) / 2)


def test_eleutherai_by_hand() -> None:
    params = 2 * 256 * 64 + 64 * 128 + 8 * 64 * 2 + 2 * 64 + 2 * SMALL.layer_matmul
    states = params * (2 + 4 / 8 + 12 / 8) + 2 * 5e8
    kept = 128 * 2 * 64 * 2 * (34 + 5 * 4 * 128 / 64)
    assert eleutherai.calc(setup(zero_stage=2)) == pytest.approx(states + kept)
    checkpointed = 128 * 2 * 64 * 2 * 34
    assert eleutherai.calc(setup(zero_stage=2, checkpointing="full")) == pytest.approx(states + checkpointed)


def test_unsloth_by_hand() -> None:
    linear, other = 2 * SMALL.layer_matmul, 2 * 64 * 2 + 2 * 256 * 64
    adapters = SMALL.adapter_params(8) * 2
    live = 256 * (64 + 2 * 32 + 2 + 2 * 256) * 2 * 1.25
    one = setup(method="qlora", lora_rank=8, checkpointing="full", dp=1, states=StateBytes(optimizer=8.0))
    kept = 2 * linear / 3.6 + 2 * other
    floor = min(0.15 * kept, max(live, 6 * adapters))
    expected = kept + 2 * adapters + 6 * adapters + max(2 * adapters, floor) + live + 1.4 * GiB
    assert unsloth.vram(one) == pytest.approx(expected)
    assert unsloth.made_for(one)
    assert not unsloth.made_for(one._replace(zero_stage=3, dp=8))


def test_scopes() -> None:
    made_for = {name for name, one in BASELINES.items() if one.made_for(setup(zero_stage=3, micro_batch=1))}
    assert made_for == {"deepspeed_estimate_zero", "deepspeed_autotuner", "eleutherai_calc"}
    assert BASELINES["megatron_theoretical"].made_for(setup(profile="megatron"))
    assert not BASELINES["megatron_theoretical"].made_for(setup(profile="nanotron"))


@pytest.mark.parametrize(
    ("group", "mape"),
    # On all rows of these sets, of which this corpus holds half, an independent scoring found 45 % for both.
    [("nanotron_ultrascale", 0.436), ("nanotron_old_bench", 0.394)],
)
def test_megatron_formula_on_nanotron(group: str, mape: float) -> None:
    errors = []
    for run in read_runs(CORPUS / "runs.csv"):
        if run.text("group") == group:
            predicted, measured = megatron.theoretical(case_of(run).setup), run.number("peak_mem_gib")
            assert predicted is not None
            assert measured is not None
            errors.append(predicted / (measured * GiB) - 1)
    found = score(errors)
    assert found.mape == pytest.approx(mape, abs=0.005)
    # Every row is predicted too small: the formula is Megatron's, nanotron keeps more.
    assert found.within_10 is not None
    assert found.within_10 < 0.01
