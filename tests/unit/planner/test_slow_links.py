"""Slow links in a plan: groups of several machines, gloo's rings, and what would send less."""

from typing import Any

import pytest

import toolkit
from toolkit.planner.api import estimate, for_recipe
from toolkit.planner.cost.algorithms import Links, all_reduce_by
from toolkit.planner.cost.cpu_engine import gathered_times
from toolkit.planner.cost.measured import Span, measured_seconds
from toolkit.planner.cost.network import all_reduce_seconds, gather_seconds, p2p_seconds, ring
from toolkit.planner.cost.rates import Rates, rates_of
from toolkit.planner.plan import Plan
from toolkit.planner.resolve import base_setup
from toolkit.planner.time_law import TimeLaw
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.measurements import CollectiveTime, Measurements
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

MIB = 2**20
LAW = TimeLaw()
SMALL = ModelSpec(
    name="small",
    model_type="llama",
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    max_position_embeddings=256,
    tied_embeddings=False,
)


def slow(num_nodes: int = 2, gpus_per_node: int = 1, **given: Any) -> ClusterSpec:
    """CPU hosts on 100 Mb/s unless told otherwise."""
    plain = ClusterSpec.resolve(f"{num_nodes}x{gpus_per_node}xcpu")
    return plain.model_copy(update={"inter_node_bandwidth": 12.5e6, "inter_node_latency": 1e-4, **given})


def measured(*rows: tuple[str, int, int, int, float], **given: int) -> Rates:
    times = tuple(
        CollectiveTime.model_validate(
            dict(zip(("kind", "num_ranks", "num_nodes", "num_bytes", "seconds"), row, strict=True))
        )
        for row in rows
    )
    cluster = slow(**given).model_copy(update={"measured": Measurements(collectives=times, made_with="by hand")})
    return rates_of(cluster, LAW)


@pytest.mark.parametrize(("num_bytes", "seconds"), [(10 * MIB, 0.87), (5 * MIB, 0.45)])
def test_a_ring_of_gloo_over_100_megabits_takes_what_was_measured(num_bytes: int, seconds: float) -> None:
    rates = rates_of(slow(), LAW)
    assert all_reduce_seconds(rates, ring(rates, 2, 1), num_bytes) == pytest.approx(seconds, rel=0.03)


def test_gloo_scatters_by_summing_everything() -> None:
    rates = rates_of(slow(num_nodes=4), LAW)
    group = ring(rates, 4, 1)
    summed = all_reduce_seconds(rates, group, 10 * MIB)
    assert gather_seconds(rates, group, 10 * MIB, kind="reduce_scatter") == pytest.approx(summed, rel=0.01)
    assert gather_seconds(rates, group, 10 * MIB) == pytest.approx(summed / 2, rel=0.01)
    assert summed == pytest.approx(2 * 3 / 4 * 10 * MIB / 12.5e6 / 0.956, rel=0.02)


def test_a_pair_gathers_in_three_halves() -> None:
    rates = rates_of(slow(num_nodes=4), LAW)
    pair, three = ring(rates, 2, 1), ring(rates, 3, 1)
    summed = all_reduce_seconds(rates, pair, 10 * MIB)
    assert gather_seconds(rates, pair, 10 * MIB) - pair.latency == pytest.approx(0.75 * (summed - 2 * pair.latency))
    assert gather_seconds(rates, three, 10 * MIB) == pytest.approx(0.5 * all_reduce_seconds(rates, three, 10 * MIB))
    # The word waits behind data, of which there is none.
    assert gather_seconds(rates, pair, 0) == pair.latency
    known = measured(("all_gather", 2, 2, MIB, 0.06), num_nodes=4)
    assert gather_seconds(known, ring(known, 2, 1), MIB) == 0.06
    # Twice the steps, each with two thirds of the bytes, on a ring that does not wait.
    assert measured_seconds(known, "all_gather", Span(3, 3), num_bytes=1.5 * MIB) == pytest.approx(2 * 0.06 / 1.5)


def test_zero3_gathers_again_what_it_has_given_up() -> None:
    times = []
    for name in ("smollm-135m", "llama-3.1-8b"):
        model, cluster, work = ModelSpec.resolve(name), slow(), Workload(seq_len=64, global_batch=2, precision="fp32")
        times.append(gathered_times(base_setup(model, cluster, workload=work, engine="zero")))
    assert times == pytest.approx([1.5, 2 - 1e9 / (2 * 8.03e9)], rel=1e-3)


def test_ranks_of_one_machine_say_nothing_of_several() -> None:
    rates = measured(("all_reduce", 2, 1, MIB, 1e-3), ("p2p", 2, 1, MIB, 5e-4), gpus_per_node=2)
    inside, across = ring(rates, 2, 1), ring(rates, 2, 2)
    assert (inside.span, across.span) == (Span(2, 1), Span(2, 2))
    assert all_reduce_seconds(rates, inside, MIB) == 1e-3
    # Two groups of one rank per machine share its link.
    assert all_reduce_seconds(rates, across, MIB) == pytest.approx(2 * MIB / 12.5e6 / 0.956, rel=0.03)
    assert p2p_seconds(rates, MIB, stride=1) == 5e-4
    assert p2p_seconds(rates, MIB, stride=2) > 0.1


def test_of_measured_groups_the_one_on_as_many_machines_counts() -> None:
    rows = [("all_reduce", 2, 1, MIB, 1e-3), ("all_reduce", 2, 2, MIB, 0.2), ("all_reduce", 4, 2, MIB, 0.15)]
    rates = measured(*rows, gpus_per_node=2)
    found = [
        measured_seconds(rates, "all_reduce", span, num_bytes=MIB) for span in (Span(2, 1), Span(2, 2), Span(4, 2))
    ]
    assert found == [1e-3, 0.2, 0.15]


def test_a_group_that_nobody_measured_follows_from_the_ring() -> None:
    # 0.1 s for halves of the tensor: on 8 machines 7 times as many steps with a quarter of what a step has sent.
    points = [("all_reduce", 2, 2, size * MIB, 0.1 * size) for size in (1, 4, 16)]
    rates = measured(*points, num_nodes=8)
    found = measured_seconds(rates, "all_reduce", Span(8, 8), num_bytes=16 * MIB)
    assert found == pytest.approx(7 * 0.1 * 16 / 4, rel=1e-6)
    assert measured_seconds(rates, "all_gather", Span(8, 8), num_bytes=MIB) is None


def test_latency_counts_once_beyond_what_was_measured() -> None:
    # 20 ms from host to host: 83 ms however little is sent, then 40 ns per byte.
    rates = measured(("all_reduce", 2, 2, 4096, 0.083), ("all_reduce", 2, 2, MIB, 0.125))
    found = all_reduce_seconds(rates, ring(rates, 2, 1), 20 * MIB)
    assert found == pytest.approx(0.125 + 19 * MIB * 0.042 / (MIB - 4096))


def test_algorithms_by_what_they_are_good_for() -> None:
    links = Links(near=10e9, near_latency=1e-5, far=12.5e6, far_latency=0.02)
    small, large = all_reduce_by(links, Span(32, 8), 1e3), all_reduce_by(links, Span(32, 8), 1e9)
    assert min(small, key=lambda name: small[name]) == "gather-broadcast"
    assert small["tree"] < small["hierarchical"] < small["ring"]
    assert large["ring"] < large["tree"] < large["gather-broadcast"]


def planned(cluster: ClusterSpec, **choices: Any) -> Plan:
    asked = {"seq_len": 64, "global_batch": 8, "micro_batch": 1, **choices}
    return toolkit.plan(SMALL, cluster, **asked)


def test_a_plan_on_slow_links_offers_what_sends_less() -> None:
    made = planned(slow(), zero_stage=0)
    (told,) = [words for words in made.reasons if words.startswith("Network: ")]
    assert "gloo takes the ring" in told
    offered = {one.change.rpartition("--set communication.")[2]: one for one in made.offers}
    assert {"compression=fp16", "compression=powersgd", "local_steps=8", "--global-batch 32"} <= offered.keys()
    assert 1.5 < offered["compression=fp16"].speedup < 2.0
    assert 3.0 < offered["local_steps=8"].speedup < 8.0
    speedups = [one.speedup for one in made.offers]
    assert speedups == sorted(speedups, reverse=True)


def test_fast_links_and_single_machines_offer_nothing() -> None:
    assert not planned(ClusterSpec.resolve("2xcpu"), zero_stage=0).offers
    fast = toolkit.plan("llama-3.1-8b", "2x8xH100-80GB", seq_len=4096, global_batch=128)
    assert not fast.offers
    assert not any(words.startswith("Network: ") for words in fast.reasons)


def test_such_links_rule_out_zero_3_and_tensor_parallelism_across_them() -> None:
    made = planned(slow(), engine="zero", tp=1)
    assert made.strategy.zero_stage < 3
    assert any("ZeRO-3" in words for words in made.reasons if words.startswith("Such links rule out"))


def test_weights_gathered_inside_the_node_are_offered_where_zero_3_gathers_over_slow_links() -> None:
    cluster = ClusterSpec.resolve("4x8xH100-80GB").model_copy(update={"inter_node_bandwidth": 12.5e9})
    made = toolkit.plan("llama-2-13b", cluster, seq_len=2048, global_batch=64, engine="zero", zero_stage=3, tp=1, sp=1)
    (near,) = [one for one in made.offers if "hpz_partition_size=8" in one.change]
    assert near.speedup > 1.05


@pytest.mark.parametrize(
    ("asked", "less"),
    [
        ({"compression": "fp16"}, (1.7, 2.0)),
        ({"compression": "powersgd"}, (4.0, 60.0)),
        ({"compression": "topk"}, (4.0, 60.0)),
        ({"local_steps": 8}, (4.0, 8.0)),
    ],
    ids=lambda given: "" if isinstance(given, tuple) else "-".join(map(str, given.values())),
)
def test_the_time_of_a_plan_counts_with_what_the_recipe_sends(asked: dict[str, Any], less: tuple[float, float]) -> None:
    work = {"seq_len": 64, "global_batch": 8, "precision": "fp32"}
    plain = estimate(SMALL, slow(), work=work, strategy={"zero_stage": 0})
    recipe = toolkit.Recipe(model=plain.model.name, workload=plain.workload, communication=CommunicationConfig(**asked))
    made = for_recipe(plain, recipe)
    assert made.communication == recipe.communication
    assert less[0] <= plain.time.dp_seconds / made.time.dp_seconds <= less[1]
    assert made.time.compute_seconds == plain.time.compute_seconds
    assert for_recipe(made, recipe) is made
