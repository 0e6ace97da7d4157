"""Which tensors go into which parameter group, by their names and shapes."""

import re
from typing import Any

import pytest
import torch

from toolkit.engines.common.groups import RATIO, check_groups, parameter_groups, set_learning_rate
from toolkit.errors import SpecError
from toolkit.specs.optimizer import OptimizerConfig, ParameterGroup

NAMES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.q_proj.bias": (4,),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}


def settings(**optimizer: Any) -> dict[str, tuple[float, float]]:
    """Weight decay and part of the learning rate of each tensor."""
    named = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in NAMES.items()}
    groups = parameter_groups(named.items(), OptimizerConfig.parse(optimizer, source="test"), "adamw")
    names = {id(parameter): name for name, parameter in named.items()}
    found = {names[id(p)]: (group["weight_decay"], group[RATIO]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(NAMES) == len(found)
    assert len({(group["weight_decay"], group[RATIO]) for group in groups}) == len(groups)
    return found


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    decaying = {name for name, (decay, _) in settings(weight_decay=0.1).items() if decay}
    assert decaying == {name for name in NAMES if name.endswith("q_proj.weight")} | {"lm_head.weight"}
    assert set(settings(weight_decay=0.1, decay_all=True).values()) == {(0.1, 1.0)}
    assert set(settings().values()) == {(0.0, 1.0)}


def test_the_first_group_that_matches_takes_a_tensor() -> None:
    groups = [
        {"match": "*layers.1.*", "learning_rate_ratio": 0.1},
        {"match": "*q_proj*", "weight_decay": 0.5},
        {"match": "*norm.weight", "weight_decay": 0.2, "learning_rate_ratio": 3},
    ]
    found = settings(weight_decay=0.1, groups=groups)
    assert found["model.layers.1.self_attn.q_proj.weight"] == (0.1, 0.1)
    assert found["model.layers.0.self_attn.q_proj.weight"] == (0.5, 1.0)
    assert found["model.layers.0.self_attn.q_proj.bias"] == (0.5, 1.0)
    assert found["model.norm.weight"] == (0.2, 3.0)
    assert found["lm_head.weight"] == (0.1, 1.0)


def test_frozen_tensors_are_in_no_group() -> None:
    frozen = torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    assert parameter_groups([("frozen", frozen)], OptimizerConfig(), "adamw") == []


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    check_groups(OptimizerConfig(groups=(ParameterGroup(match="1.*"), ParameterGroup(match="*.bias"))), model)
    model[1].requires_grad_(False)
    for pattern in ("1.*", "*emebd*"):
        with pytest.raises(
            SpecError, match=rf"`{re.escape(pattern)}` matches no tensor.* there are 0\.weight, 0\.bias"
        ):
            check_groups(OptimizerConfig(groups=(ParameterGroup(match=pattern),)), model)


def test_a_rate_is_set_in_proportion() -> None:
    groups = [{RATIO: 0.5, "lr": 0.0}, {RATIO: 1.0, "lr": 0.0}]
    set_learning_rate(groups, 1e-3)
    assert [group["lr"] for group in groups] == pytest.approx([5e-4, 1e-3])
