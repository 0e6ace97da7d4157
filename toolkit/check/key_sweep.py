"""What each key of a ds_config.json does to memory and step time: one at a time, with all others as they are."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from toolkit.check.context import Asked, Values
from toolkit.check.document import read_document
from toolkit.check.memory_verdict import layout_of, precision_of
from toolkit.check.zero_rules import device_of
from toolkit.errors import SpecError
from toolkit.planner.what_if import Answer, estimate_each
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec

CHECKPOINTING = "activation checkpointing"
"""Beside the keys: DeepSpeed's section of that name only says how, the model says whether."""
KEYS: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "zero_optimization.stage": (0, 1, 2, 3),
        "zero_optimization.offload_optimizer.device": ("none", "cpu"),
        "zero_optimization.offload_param.device": ("none", "cpu"),
        "train_micro_batch_size_per_gpu": (1, 2, 4),
        CHECKPOINTING: ("none", "selective", "full"),
    }
)
"""Keys and the values to try where none are given."""


def what_keys_do(
    path: Path | str, asked: Asked, keys: Mapping[str, Sequence[Any]] = KEYS
) -> dict[str, dict[str, Answer]]:
    """Memory and step time with each value of each key; the micro-batches follow, so that the global batch stays.

    Args:
        path: a ds_config.json, of this toolkit or of anybody.
        asked: model and cluster, and what else no ds_config holds.
        keys: dotted key -> values to try; the file's own is tried too.

    Returns:
        Key -> value -> answer, the file's own value marked with "(now)". A value that no engine can run beside the
        others has the reason in the place of a plan.

    Raises:
        SpecError: the file cannot be read, or model or cluster are not known.
    """
    document = read_document(Path(path))
    if not isinstance(document.value, dict):
        raise SpecError(f"{path}: is no JSON object; `toolkit check {path}` says where")
    base = Values(document.content)
    spec, machines = ModelSpec.resolve(asked.model), ClusterSpec.resolve(asked.cluster)
    layout = layout_of(base)
    replicas = max(1, machines.world_size // layout["tp"])
    question = {
        "model": spec,
        "cluster": machines,
        "seq_len": asked.seq_len,
        "global_batch": layout["micro_batch"] * layout["grad_accum"] * replicas,
        "method": asked.method,
    }
    return {key: _answers(question, base, key, values, asked) for key, values in keys.items()}


def _answers(
    question: dict[str, Any], base: Values, key: str, values: Sequence[Any], asked: Asked
) -> dict[str, Answer]:
    now = asked.checkpointing if key == CHECKPOINTING else _value(base, key)
    tried = values if now in values else (*values, now)
    answers: dict[str, Answer] = {}
    for value in tried:
        changed = base if key == CHECKPOINTING else Values(_changed(base.content, key, value))
        checkpointing = value if key == CHECKPOINTING else asked.checkpointing
        layout = {**layout_of(changed), "activation_checkpointing": checkpointing}
        del layout["grad_accum"]  # it follows from the global batch
        name = f"{value} (now)" if value == now else f"{value}"
        answers |= estimate_each({**question, "precision": precision_of(changed)}, {name: layout})
    return answers


def _value(values: Values, key: str) -> Any:
    """The file's own, as the layout has it where the key is not there."""
    layout = layout_of(values)
    match key:
        case "zero_optimization.stage":
            return layout["zero_stage"]
        case "train_micro_batch_size_per_gpu":
            return layout["micro_batch"]
        case "zero_optimization.offload_optimizer.device" | "zero_optimization.offload_param.device":
            return device_of(values, key.split(".")[1])
        case _:
            return values.get(*key.split("."))


def _changed(content: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with one value; sections on the way that are none are made anew."""
    changed = copy.deepcopy(dict(content))
    *sections, last = key.split(".")
    section = changed
    for name in sections:
        if not isinstance(section.get(name), dict):
            section[name] = {}
        section = section[name]
    section[last] = value
    return changed
