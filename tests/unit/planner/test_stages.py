"""How layers are divided over the stages of a pipeline, and that a plan's memory and time are those of its split."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import SpecError
from toolkit.planner.api import estimate, plan
from toolkit.planner.cost.balance import head_cost
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.cost.pipeline import slowest_stage
from toolkit.planner.memory.estimate import estimate_memory
from toolkit.planner.memory.stages import split_layers, stage_layers
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

WORK = {"seq_len": 4096, "global_batch": 64}


def judged(stages: tuple[int, ...] | str | None = None, **layout: Any) -> Plan:
    return estimate("llama-3.1-8b", "8xA100-80GB", work=WORK, strategy={"stages": stages, **layout})


def setup(made: Plan) -> Setup:
    return setup_of(made.model, made.cluster, workload=made.workload, strategy=made.strategy)


@settings(max_examples=200, deadline=None)
@given(num_layers=st.integers(2, 12), pp=st.integers(2, 5), head_cost=st.floats(0, 20))
def test_no_other_split_has_a_faster_slowest_stage(num_layers: int, pp: int, head_cost: float) -> None:
    if pp > num_layers:
        return
    split = split_layers(num_layers, pp, rule="balanced", head_cost=head_cost)
    assert (len(split), sum(split)) == (pp, num_layers)
    assert min(split[:-1]) >= 1
    assert split[-1] >= 0
    all_others = [
        (*first, num_layers - sum(first))
        for first in itertools.product(range(1, num_layers + 1), repeat=pp - 1)
        if sum(first) <= num_layers
    ]
    fastest = min(slowest_stage(one, layer=1.0, head=head_cost) for one in all_others)
    assert slowest_stage(split, layer=1.0, head=head_cost) == fastest
    # Early stages hold the most micro-batches: of what is as fast none has fewer layers there, and layers only grow.
    assert list(split[:-1]) == sorted(split[:-1])
    as_fast = [one for one in all_others if slowest_stage(one, layer=1.0, head=head_cost) == fastest]
    assert sum(split[:-1]) == min(sum(one[:-1]) for one in as_fast)


@pytest.mark.parametrize(
    ("num_layers", "pp", "head_cost", "split"),
    [
        (32, 1, 2.0, (32,)),
        (32, 2, 2.0, (17, 15)),
        (32, 4, 1.2, (8, 8, 9, 7)),
        (32, 4, 0.9, (8, 8, 8, 8)),
        (32, 4, 2.4, (8, 9, 9, 6)),
        (4, 4, 1.0, (1, 1, 1, 1)),
        (4, 3, 5.0, (2, 2, 0)),
        (126, 16, 0.4, (7, *(8,) * 14, 7)),
    ],
)
def test_balanced_splits(num_layers: int, pp: int, head_cost: float, split: tuple[int, ...]) -> None:
    assert split_layers(num_layers, pp, rule="balanced", head_cost=head_cost) == split


def test_the_head_costs_more_layers_where_they_are_not_recomputed_and_the_vocabulary_is_large() -> None:
    plain, again = (head_cost(setup(judged(pp=4, activation_checkpointing=one))) for one in ("none", "full"))
    assert 1.2 < plain / again < 1.34
    small = estimate("llama-2-7b", "8xA100-80GB", work=WORK, strategy={"pp": 4})
    assert head_cost(setup(small)) < plain / 3


def test_a_plan_holds_the_split_that_its_numbers_are_of() -> None:
    made = judged(pp=4)
    assert made.strategy.stages == stage_layers(setup(made))
    assert sum(made.strategy.stages) == 32
    even = judged((8, 8, 8, 8))
    assert even.strategy.stages == (8, 8, 8, 8)
    assert made.time.bubble_seconds < even.time.bubble_seconds
    assert made.time.step_seconds < even.time.step_seconds
    for one in (made, even):
        assert (one.memory, one.time) == (estimate_memory(setup(one)), estimate_time(setup(one)))
        assert max(memory.total_bytes for memory in one.stage_memory) == one.memory.total_bytes


def test_a_split_of_the_user_decides_memory_too() -> None:
    early, late = judged("14,6,6,6"), judged("6,6,6,14")
    assert early.strategy.layout.pp == late.strategy.layout.pp == 4
    assert early.stage_memory[0].activations_bytes > 2 * late.stage_memory[0].activations_bytes
    assert early.fixed.stages == (14, 6, 6, 6)
    assert "--stages 14,6,6,6" in " ".join(early.fixed.options())
    assert judged(pp=4).fixed.stages is None
    middle = judged("6,6,14,6")
    assert (middle.memory.stage, middle.memory.total_bytes) == (
        2,
        max(memory.total_bytes for memory in middle.stage_memory),
    )


def test_the_search_keeps_a_given_split() -> None:
    made = plan("llama-3.1-8b", "8xA100-80GB", **WORK, stages="9,8,8,7")
    assert (made.strategy.layout.pp, made.strategy.vpp, made.strategy.stages) == (4, 1, (9, 8, 8, 7))
    assert any("pp=4, stages=9,8,8,7" in reason for reason in made.reasons)
    assert {one.strategy.stages for one in made.alternatives} == {(9, 8, 8, 7)}
    assert {one.strategy.engine for one in made.pareto} == {"pipeline", "mcore"}


def test_adapters_leave_no_stage_without_a_layer() -> None:
    heavy = {"rule": "balanced", "head_cost": 6.0}
    assert split_layers(16, 4, **heavy) == (5, 5, 6, 0)
    assert split_layers(16, 4, **heavy, last_at_least=1) == (5, 5, 5, 1)
    shallow = ModelSpec.resolve("llama-3.2-1b").model_copy(update={"num_layers": 4})
    for method, stages in (("full", (2, 2, 0)), ("lora", (1, 2, 1))):
        work = {"seq_len": 4096, "global_batch": 3, "method": method}
        assert estimate(shallow, "3xA100-80GB", work=work, strategy={"pp": 3}).strategy.stages == stages
    with pytest.raises(SpecError, match=r"stages=2,2,0: .* has no adapters to train"):
        estimate(shallow, "3xA100-80GB", work=work, strategy={"stages": "2,2,0"})


def test_megatrons_stages_are_equal_where_nobody_decides() -> None:
    assert judged(engine="mcore", pp=4).strategy.stages == (8, 8, 8, 8)
    assert judged(tp=2).strategy.stages == ()
    model, machines = ModelSpec.resolve("llama-3.1-8b"), ClusterSpec.resolve("8xA100-80GB")
    fields = {"engine": "mcore", "layout": {"dp": 2, "pp": 4}, "zero_stage": 1, "micro_batch": 1, "grad_accum": 32}
    one = setup_of(model, machines, workload=Workload(**WORK), strategy=Strategy.model_validate(fields))
    assert stage_layers(one) == (8, 8, 8, 8)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"stages": "9,8,8,7", "pp": 2}, "stages=9,8,8,7 is for 4 stages, pp is 2; use 2 numbers, or pp=4"),
        ({"stages": "9,8,8,8"}, "stages=9,8,8,8 adds up to 33, the model has 32 layers; use numbers that do"),
        (
            {"stages": "0,32"},
            "stages=0,32: every stage but the last needs a layer; use 1 and more, and 0 for the last only",
        ),
        ({"stages": "11,11,10"}, "pp=3 does not divide 8 ranks; use 1, 2, 4 or 8"),
        (
            {"stages": "16,16", "engine": "zero"},
            "stages=16,16: engine zero takes no split of the layers; use engine=pipeline or mcore, or no stages",
        ),
        (
            {"stages": "16,x"},
            "layout: stages=16,x: needs the layers of each stage with commas between, as 9,8,8,7",
        ),
        ({"stages": (40, -8)}, "layout: `stages.1` is -8: input should be greater than or equal to 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as failure:
        judged(**layout)
    assert str(failure.value) == message


def test_stages_say_how_many_there_are() -> None:
    assert Fixed(stages=(17, 15)).pp == 2
    assert Fixed.model_validate({"stages": "17, 15"}) == Fixed(stages=(17, 15), pp=2)
