"""How a pipeline's layers are divided: the split, its slowest stage, and what an even one would make of it."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from toolkit.planner.cost.estimate import slice_of
from toolkit.planner.cost.layer import head_of, layer_of
from toolkit.planner.cost.pipeline import slowest_stage
from toolkit.planner.cost.rates import rates_of
from toolkit.planner.memory.stages import split_layers, stage_layers
from toolkit.planner.setup import Setup
from toolkit.report.explain_lines import short_seconds


class Split(NamedTuple):
    """A division of the layers over stages; seconds of one micro-batch, forward and backward."""

    stages: Sequence[int]
    """Decoder layers of each stage."""
    slowest: float
    """The stage that all others wait for."""
    mean: float
    """What it would take if the work could be divided at will."""
    even: float
    """The slowest stage of equal numbers of layers."""
    head: float
    """Head and loss, in layers."""

    @property
    def is_even(self) -> bool:
        """True where the stages are as Megatron divides them."""
        return tuple(self.stages) == even_stages(sum(self.stages), len(self.stages))


def even_stages(num_layers: int, pp: int) -> tuple[int, ...]:
    """Equal numbers of layers, as nearly as can be."""
    return tuple(split_layers(num_layers, pp, rule="even"))


def split_of(setup: Setup) -> Split:
    """The split of a set-up with its times."""
    rates = rates_of(setup.cluster, setup.profile.time)
    part = slice_of(rates, setup)
    layer, both = layer_of(rates, setup, part).total, head_of(rates, setup.shape, part)
    head = both.forward + both.backward
    stages, layers = stage_layers(setup), setup.shape.num_layers
    return Split(
        stages,
        slowest=slowest_stage(stages, layer=layer, head=head),
        mean=(layers * layer + head) / setup.pp,
        even=slowest_stage(even_stages(layers, setup.pp), layer=layer, head=head),
        head=head / layer,
    )


def layers_words(stages: Sequence[int]) -> str:
    """'8, 8, 9, 7', and '7, 14 x 8, 7' of a long pipeline."""
    runs = [(size, len(list(alike))) for size, alike in itertools.groupby(stages)]
    return ", ".join(f"{count} x {size}" if count > 2 else ", ".join([str(size)] * count) for size, count in runs)


def split_words(setup: Setup) -> str:
    """One sentence for the plan's head."""
    split = split_of(setup)
    words = f"{layers_words(split.stages)} layers; the slowest {short_seconds(split.slowest)} per micro-batch"
    words += f", the mean {short_seconds(split.mean)}"
    return words if split.is_even else f"{words}; evenly divided the slowest {short_seconds(split.even)}"
