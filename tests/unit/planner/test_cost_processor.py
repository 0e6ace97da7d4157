"""Step time on processors: measured tables are used, between and beyond the sizes that were measured."""

from typing import Any

import pytest

from toolkit.planner.cost import estimate_time
from toolkit.planner.cost.tables import attention_rate, by_size, matmul_rate
from toolkit.planner.profile import profiles
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.measurements import AttentionRate, CollectiveTime, MatmulRate, Measurements, SizeRate
from toolkit.specs.model import ModelSpec

MIB = 2**20
SIZES = (
    SizeRate(num_bytes=MIB, bytes_per_second=16e9),
    SizeRate(num_bytes=31 * MIB, bytes_per_second=12e9),
    SizeRate(num_bytes=32 * MIB, bytes_per_second=5e9),
)
MEASURED = Measurements(
    matmuls=(
        MatmulRate(m=512, n=512, k=512, precision="fp32", flops_per_second=150e9),
        MatmulRate(m=64, n=64, k=64, precision="fp32", flops_per_second=50e9),
    ),
    collectives=tuple(
        CollectiveTime(kind=kind, num_ranks=2, num_bytes=size, seconds=1e-3 + size / 1e9)
        for kind in ("all_reduce", "all_gather", "reduce_scatter")
        for size in (4096, 64 * MIB)
    ),
    attention=(AttentionRate(seq_len=256, head_dim=64, precision="fp32", forward=90e9, backward=100e9),),
    elementwise=SIZES,
    loss=SIZES,
    op_seconds=2e-6,
    adam_bandwidth=40e9,
    memory_bandwidth=25e9,
    made_with="numbers of a test",
)
SHAPE = Shape.of(ModelSpec.resolve("smollm-135m"))


def machine(**changed: Any) -> ClusterSpec:
    measured = MEASURED.model_copy(update=changed)
    cluster = ClusterSpec.resolve("2xcpu")
    device = cluster.device.model_copy(update={"fp32_flops": 160e9, "bf16_flops": 800e9})
    return cluster.model_copy(update={"measured": measured, "device": device})


def seconds(cluster: ClusterSpec | None = None, **fields: Any) -> float:
    given = {"seq_len": 256, "micro_batch": 4, "dp": 2, "precision": "fp32", **fields}
    setup = Setup(shape=SHAPE, cluster=cluster or machine(), profile=profiles()["hf-deepspeed"], **given)
    return estimate_time(setup).step_seconds


def test_rates_between_and_beyond_the_measured_sizes() -> None:
    assert by_size(SIZES, MIB) == by_size(SIZES, 100) == 16e9
    assert by_size(SIZES, 32 * MIB) == by_size(SIZES, 500 * MIB) == 5e9
    assert 12e9 < by_size(SIZES, 8 * MIB) < 16e9
    # The fall at 32 MiB belongs to tensors of that size, not to those below.
    assert by_size(SIZES, 30 * MIB) > 12e9


def test_shapes_near_a_measured_one_have_its_rate() -> None:
    near = matmul_rate(MEASURED.matmuls, (520, 500, 512), precision="fp32")
    assert near == pytest.approx(150e9, rel=0.02)
    middle = matmul_rate(MEASURED.matmuls, (181, 181, 181), precision="fp32")
    assert middle is not None
    assert 60e9 < middle < 130e9
    assert matmul_rate(MEASURED.matmuls, (512, 512, 512), precision="bf16") is None
    assert attention_rate(MEASURED.attention, 4096, 128) == pytest.approx((90e9, 100e9))


@pytest.mark.parametrize("table", ["elementwise", "loss"])
def test_every_table_counts(table: str) -> None:
    logits = 4 * 4 * 256 * SHAPE.vocab
    slow = tuple(one.model_copy(update={"bytes_per_second": one.bytes_per_second / 4}) for one in SIZES)
    longer = seconds(machine(**{table: slow})) - seconds()
    expected = 3 * logits / 5e9
    assert longer == pytest.approx(expected) if table == "loss" else longer > 10 * expected


def test_slow_attention_counts() -> None:
    slow = AttentionRate(seq_len=256, head_dim=64, precision="fp32", forward=9e9, backward=10e9)
    flops = 3.5 * 4 * 256 * 1024 * SHAPE.query * SHAPE.num_layers
    longer = seconds(machine(attention=(slow,))) - seconds()
    assert longer == pytest.approx(flops * (1 / 3.5 / 9e9 + 2.5 / 3.5 / 10e9) * 0.9, rel=0.01)


def test_products_of_a_type_that_was_not_measured_follow_the_peaks() -> None:
    assert seconds(precision="bf16") < 0.6 * seconds()


def test_zero_3_pays_for_its_hooks_and_gathers() -> None:
    stages = [seconds(zero_stage=stage) for stage in range(4)]
    assert stages[3] == max(stages)
    # A slower interpreter costs stage 3 most.
    slow = machine(op_seconds=4e-6)
    added = [seconds(slow, zero_stage=stage) - before for stage, before in enumerate(stages)]
    assert added[3] > 5 * added[1] > 0


def test_gradients_are_summed_once_per_step_in_stage_1_and_per_micro_batch_in_stage_2() -> None:
    one, two = (seconds(zero_stage=stage, micro_batch=1, grad_accum=4) for stage in (1, 2))
    assert two > one
    assert seconds(zero_stage=1) == pytest.approx(seconds(zero_stage=2))


def test_one_rank_sends_nothing() -> None:
    cluster = machine().model_copy(update={"gpus_per_node": 1, "fast_domain": 1})
    setup = Setup(
        shape=SHAPE, cluster=cluster, profile=profiles()["hf-deepspeed"], seq_len=256, micro_batch=4, precision="fp32"
    )
    assert estimate_time(setup).dp_seconds == 0


def test_without_tables_the_older_law_holds() -> None:
    bare = machine(elementwise=(), attention=(), loss=())
    assert seconds(bare) > 0
    assert seconds(bare) != seconds()
