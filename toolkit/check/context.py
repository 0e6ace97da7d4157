"""What a file is checked for: a release, a number of ranks, who reads it, and the plan beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.check.finding import Location
from toolkit.check.releases import Release
from toolkit.run_folder import RunFolder
from toolkit.specs.reading import MAX_JSON_BYTES, bounded_text

Reader = Literal["toolkit", "trainer", "deepspeed"]
"""Who takes the file: this toolkit's runs, transformers' Trainer (which fills "auto"), or a script's own
`deepspeed.initialize`."""


Method = Literal["full", "lora", "qlora"]
"""What is trained."""


class Values:
    """The values of a file that anybody may have written: every question has an answer, whatever stands there."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def get(self, *path: str) -> Any:
        """The value at a path; None where there is none."""
        value: Any = self.content
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value

    def has(self, *path: str) -> bool:
        """Whether something, also null, is given at a path."""
        section = self.get(*path[:-1]) if len(path) > 1 else self.content
        return isinstance(section, Mapping) and path[-1] in section

    def on(self, *path: str) -> bool:
        """Whether true is given at a path, also as 1 or as a text, which DeepSpeed's sections take for it."""
        value = self.get(*path)
        return value is True or (value == 1 and isinstance(value, int | float)) or str(value).lower() == "true"

    def off(self, *path: str) -> bool:
        """Whether false is given at a path, also as 0 or as a text."""
        value = self.get(*path)
        return value is False or (value == 0 and isinstance(value, int | float)) or str(value).lower() == "false"

    def number(self, *path: str) -> int | float | None:
        """The number at a path; None for anything else, also for true."""
        value = self.get(*path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def whole(self, *path: str) -> int | None:
        """The whole number at a path, as 5e8; None for anything else."""
        value = self.number(*path)
        return int(value) if value is not None and value == value // 1 else None


class PlanFacts(Values):
    """Of a plan.json, what other files must agree with; that the plan itself is whole is its own check's affair."""

    @property
    def engine(self) -> str | None:
        """zero, pipeline or mcore."""
        engine = self.get("strategy", "engine")
        return engine if isinstance(engine, str) else None

    @property
    def world_size(self) -> int | None:
        """Ranks: dp x tp x pp x sp x cp."""
        ranks = self.whole("strategy", "layout", "dp")
        for degree in ("tp", "pp", "sp", "cp"):
            size = self.whole("strategy", "layout", degree) if self.has("strategy", "layout", degree) else 1
            ranks = None if ranks is None or size is None else ranks * size
        return ranks

    @property
    def tp(self) -> int:
        """Tensor-parallel ranks of a replica."""
        return self.whole("strategy", "layout", "tp") or 1


def plan_beside(path: Path) -> PlanFacts | None:
    """The facts of the plan.json in a file's folder; None where there is none that can be read."""
    plan = RunFolder(path.parent).plan
    if plan == path or not plan.is_file():
        return None
    try:
        content = json.loads(bounded_text(plan, MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("strategy"), dict):
        return None
    return PlanFacts(content)


@dataclass(frozen=True)
class Asked:
    """Of the run, what no ds_config holds."""

    model: str
    """Folder, hub id or catalog name."""
    cluster: str
    """As 8xA100-80GB."""
    seq_len: int = 2048
    """Tokens of the longest sequence."""
    method: str = "full"
    """full, lora or qlora."""
    checkpointing: str = "full"
    """Activation checkpointing: none, selective or full."""


@dataclass(frozen=True)
class Context:
    """What the rules know besides the file."""

    deepspeed: Release
    """The release that the file is checked for."""
    world_size: int | None = None
    """Ranks, where they are known."""
    read_by: Reader | None = None
    """Who reads the file; None where nobody has said."""
    plan: PlanFacts | None = None
    """Of the plan beside the file."""
    method: Method | None = None
    """What is trained; None where nobody has said."""

    @property
    def trains_adapters(self) -> bool | None:
        """Whether LoRA's adapters are trained; None where it is not known."""
        told = self.method if self.plan is None else self.plan.get("workload", "method")
        return None if told is None else told != "full"

    def since(self, release: str) -> bool:
        """Whether the release that is checked for is this one or a newer one."""
        return self.deepspeed >= Release.parse(release)


def autos(content: Any, at: Location = ()) -> list[Location]:
    """Where "auto" stands."""
    found: list[Location] = []
    if isinstance(content, dict):
        for key, value in content.items():
            found += [(*at, str(key))] if value == "auto" else autos(value, (*at, str(key)))
    return found
