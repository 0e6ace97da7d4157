"""What several runs were given that is not the same: of recipe, plan, DeepSpeed's configuration and libraries."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.report.record import Record
from toolkit.report.texts import shown

NOT_THERE = "-"
"""Stands for a key that a run does not have."""


class Difference(NamedTuple):
    """One key of which not all runs have the same value."""

    file: str
    """recipe, plan, ds_config or versions."""
    key: str
    """With dots between the levels."""
    values: tuple[str, ...]
    """One per run."""


def differences(records: Sequence[Record]) -> tuple[Difference, ...]:
    """Every key that differs, by file, in the order in which the files have them."""
    given = [given_values(record) for record in records]
    found = []
    for file in ("recipe", "plan", "ds_config", "versions"):
        flat_values = [one[file] for one in given]
        for key in dict.fromkeys(key for one in flat_values for key in one):
            values = tuple(one.get(key, NOT_THERE) for one in flat_values)
            # A run that has not started says nothing of its libraries, one of another engine has no such file.
            if len({value for value, one in zip(values, flat_values, strict=True) if one}) > 1:
                found.append(Difference(file, key, values))
    return tuple(found)


def given_values(record: Record) -> dict[str, dict[str, str]]:
    """For each file its keys and values, flat and in words."""
    plan, layout = record.plan, record.plan.strategy
    decided = {
        "model": plan.model.name,
        "cluster": plan.cluster.name,
        "world_size": plan.world_size,
        "strategy": layout.model_dump(mode="json"),
        "gradient_clipping": plan.gradient_clipping,
        "objective": plan.objective,
    }
    try:
        config = dict(flat(record.ds_config))
    except RecursionError:  # hundreds of brackets inside each other are no configuration
        config = {}
    return {
        "recipe": dict(flat(record.recipe.model_dump(mode="json", exclude_none=True))),
        "plan": dict(flat(decided)),
        "ds_config": config,
        "versions": {shown(name): shown(release) for name, release in record.versions.items()},
    }


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys with dots between the levels, and their values as JSON has them; texts without quotes."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", in_words(value)


def in_words(value: Any) -> str:
    """A value as one line: texts as they are, the rest as JSON has it; logins, tokens and the home folder hidden."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown(words.replace(f"{Path.home()}/", "~/"))
