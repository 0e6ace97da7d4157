"""Framework profiles: what a training framework keeps in memory and how fast it runs, as data with sources.

One law per framework, not one for all (docs/decisions/0011): Megatron, Hugging Face and nanotron keep different
tensors for the same layer.
"""

import functools
from pathlib import Path

from toolkit.planner.memory_law import MemoryLaw
from toolkit.planner.time_law import TimeLaw
from toolkit.specs.base import Spec, read_catalog


class Profile(Spec):
    """One framework's laws."""

    name: str
    """Name in the catalog, as hf-deepspeed."""
    describes: str
    """What it stands for, in words."""
    memory: MemoryLaw
    """Bytes."""
    time: TimeLaw
    """Seconds."""

    @property
    def fitted(self) -> tuple[str, ...]:
        """Names of the constants that were fitted to measured runs; all others are counted or published."""
        return (*(f"memory.{name}" for name in self.memory.fitted), *(f"time.{name}" for name in self.time.fitted))


@functools.cache
def profiles() -> dict[str, Profile]:
    """Name -> profile, from toolkit/specs/catalog/frameworks.yaml."""
    path = Path(__file__).parents[1] / "specs" / "catalog" / "frameworks.yaml"
    found = [Profile.parse(entry, source=f"{path.name}: {entry['name']}") for entry in read_catalog(path)["frameworks"]]
    return {profile.name: profile for profile in found}
