"""Which plan a run goes on with where ranks do not come back, or memory runs out."""

from typing import Any

import pytest

import toolkit
from toolkit.launcher.replan import plan_on_fewer_ranks, plan_with_half_the_micro_batch
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed
from toolkit.specs.recipe import Recipe
from toolkit.specs.reliability import FaultConfig


def fewer(cluster: str, min_ranks: int | None, **choices: Any) -> Plan | None:
    plan = toolkit.plan("smollm-135m", cluster, seq_len=64, global_batch=12, **choices)
    recipe = Recipe(model="smollm-135m", workload=plan.workload, faults=FaultConfig(min_ranks=min_ranks))
    return plan_on_fewer_ranks(plan, recipe)


@pytest.mark.parametrize(("ranks", "left"), [(6, 4), (4, 3), (3, 2), (2, 1)])
def test_as_many_as_divide_the_batch(ranks: int, left: int) -> None:
    plan = fewer(f"{ranks}xcpu", 1)
    assert plan is not None
    assert plan.world_size == left
    assert plan.workload.global_batch == 12


def test_the_users_own_decisions_stay() -> None:
    plan = fewer("4xcpu", 1, pp=2)
    assert plan is not None
    assert plan.world_size == 2
    assert plan.strategy.layout.pp == 2


@pytest.mark.parametrize(("cluster", "min_ranks"), [("4xcpu", None), ("4xcpu", 4), ("2x2xA100-80GB", 1)])
def test_not_allowed_or_not_here(cluster: str, min_ranks: int | None) -> None:
    assert fewer(cluster, min_ranks) is None


def halved(micro_batch: int, *, allowed: bool = True, **choices: Any) -> tuple[Plan, Plan | None]:
    choices = {"global_batch": 16, "seq_len": 64, "micro_batch": micro_batch} | choices
    plan = toolkit.plan("llama-3.2-1b", "4xA100-80GB", **choices)
    faults = FaultConfig(halve_micro_batch=allowed)
    return plan, plan_with_half_the_micro_batch(
        plan, Recipe(model="llama-3.2-1b", workload=plan.workload, faults=faults)
    )


MEGATRON = [
    {"engine": "mcore", "pp": 2, "vpp": 2},
    {"engine": "mcore", "tp": 2, "tp_sequence": False},
    {"engine": "mcore", "stages": "9,7"},
    {"cp": 2},
]


@pytest.mark.parametrize(
    "choices", [{"zero_stage": 1}, {"tp": 2}, {"sp": 2}, {"pp": 2}, {"stages": "9,7"}, {}, *MEGATRON], ids=str
)
@pytest.mark.parametrize("micro_batch", [2, 4])
def test_half_the_micro_batch_and_all_else_as_it_was(choices: dict[str, Any], micro_batch: int) -> None:
    plan, less = halved(micro_batch, **choices)
    assert less is not None
    assert less.workload == plan.workload
    smaller = {"micro_batch": micro_batch // 2, "grad_accum": 2 * plan.strategy.grad_accum}
    assert less.strategy == plan.strategy.model_copy(update=smaller)
    assert less.fixed == plan.fixed.model_copy(update={"micro_batch": micro_batch // 2})


def test_the_recipe_must_allow_less_and_one_sample_is_the_least() -> None:
    assert halved(4, allowed=False)[1] is None
    assert halved(1)[1] is None


ON_MEGATRON = ({"engine": "mcore"}, {"mcore"})


@pytest.mark.parametrize(("choices", "engines"), [({"without": "mcore"}, {"zero", "pipeline"}), ON_MEGATRON])
def test_a_run_on_megatron_stays_there_and_others_stay_away(choices: dict[str, Any], engines: set[str]) -> None:
    began = toolkit.plan("llama-3.2-1b", "4xA100-80GB", seq_len=64, global_batch=12, **choices)
    assert began.strategy.engine in engines
    # What the search left out once is not what the user has decided.
    began = began.model_copy(update={"fixed": Fixed()})
    faults = FaultConfig(min_ranks=1)
    left = plan_on_fewer_ranks(began, Recipe(model="llama-3.2-1b", workload=began.workload, faults=faults))
    assert left is not None
    assert left.world_size == 3
    assert left.strategy.engine in engines
    assert left.fixed == Fixed()
