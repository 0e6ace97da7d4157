"""Which ranks a run goes on with where some of them do not come back."""

from typing import Any

import pytest

import toolkit
from toolkit.launcher.shrink import plan_on_fewer_ranks
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import FaultConfig, Recipe


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
