"""Parameter groups: which trained tensors decay, and which learn at a rate of their own."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch

from toolkit.engines.common.sums import gather_objects
from toolkit.errors import EngineError, SpecError
from toolkit.specs.optimizer import OptimizerConfig, OptimizerName

Group = dict[str, Any]
"""Parameters and their settings, as an optimizer of torch takes them."""

_TOLD = 4
_ENDS = ("embed_tokens.weight", "lm_head.weight")
RATIO = "learning_rate_ratio"
"""Key of an optimizer's group: its learning rate as a part of the schedule's."""
HIDDEN_MATRIX = "hidden_matrix"
"""Key of an optimizer's group: whether it holds matrices of the layers, and neither embedding nor head."""


def check_groups(config: OptimizerConfig, model: torch.nn.Module) -> None:
    """Refuse a group that would take nothing of the whole model: its pattern is misspelt.

    Raises:
        SpecError: naming the pattern, and tensors that there are.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for group in config.groups:
        if not any(fnmatchcase(name, group.match) for name in trained):
            raise SpecError(
                f"optimizer.groups: `{group.match}` matches no tensor that is trained; there are "
                f"{', '.join(trained[:_TOLD])} and {max(len(trained) - _TOLD, 0)} more"
            )


def parameter_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], config: OptimizerConfig, optimizer: OptimizerName
) -> list[Group]:
    """The trained tensors as an optimizer of torch takes them, equals together, in the order of the tensors.

    Args:
        named: tensors by their names in the whole model; the frozen ones are left out.
        config: of the recipe.
        optimizer: which; for one that treats the matrices of the layers apart, they are groups of their own.
    """
    groups: dict[tuple[float, float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            hidden = optimizer == "muon" and _dimensions(parameter) == 2 and not name.endswith(_ENDS)
            groups.setdefault((*settings_of(name, parameter, config), hidden), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, RATIO: ratio, HIDDEN_MATRIX: hidden}
        for (decay, ratio, hidden), parameters in groups.items()
    ]


def as_many_everywhere(groups: list[Group]) -> list[Group]:
    """The same groups, some of them in two, so that every rank has as many: a collective.

    DeepSpeed sums the norm over the stages of a pipeline group by group; with another number of groups they would wait
    for each other for ever.

    Raises:
        EngineError: a stage has fewer tensors than another has groups.
    """
    counts = gather_objects((len(groups), sum(len(group["params"]) for group in groups)))
    most, fewest = max(count for count, _ in counts), min(tensors for _, tensors in counts)
    if fewest < most:
        raise EngineError(
            f"optimizer.groups: a pipeline stage has {fewest} trained tensor(s), another one {most} parameter groups; "
            "give fewer groups, set decay_all, or fewer stages"
        )
    groups = list(groups)
    while len(groups) < most:
        number = max(range(len(groups)), key=lambda place: len(groups[place]["params"]))
        group, half = groups[number], len(groups[number]["params"]) // 2
        groups[number : number + 1] = [
            {**group, "params": group["params"][:half]},
            {**group, "params": group["params"][half:]},
        ]
    return groups


def set_learning_rate(groups: Iterable[dict[str, Any]], rate: float) -> None:
    """Of the next step."""
    for group in groups:
        group["lr"] = rate * group[RATIO]


def settings_of(name: str, parameter: torch.nn.Parameter, config: OptimizerConfig) -> tuple[float, float]:
    """Weight decay and part of the learning rate of a trained tensor, by its name in the whole model."""
    decays = config.decay_all or not _is_exempt(name, parameter)
    decay, ratio = config.weight_decay if decays else 0.0, 1.0
    for group in config.groups:
        if fnmatchcase(name, group.match):
            return decay if group.weight_decay is None else group.weight_decay, group.learning_rate_ratio
    return decay, ratio


def _is_exempt(name: str, parameter: torch.nn.Parameter) -> bool:
    """Norms, biases and embeddings: to pull them towards 0 regularises nothing."""
    return _dimensions(parameter) < 2 or name.endswith("embed_tokens.weight")


def _dimensions(parameter: torch.nn.Parameter) -> int:
    # ZeRO-3 leaves an empty tensor with the whole one's shape beside it.
    return len(getattr(parameter, "ds_shape", parameter.shape))
