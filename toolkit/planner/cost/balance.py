"""Layers of each pipeline stage where the engine divides them as it likes: no stage slower than it has to be."""

from toolkit.planner.cost.estimate import slice_of
from toolkit.planner.cost.layer import head_of, layer_of
from toolkit.planner.cost.rates import rates_of
from toolkit.planner.memory.stages import last_at_least, split_layers
from toolkit.planner.setup import Setup


def balanced_stages(setup: Setup) -> tuple[int, ...]:
    """Decoder layers of each stage; none without a pipeline."""
    if setup.pp == 1:
        return ()
    return tuple(
        split_layers(
            setup.shape.num_layers,
            setup.pp,
            rule="balanced",
            head_cost=head_cost(setup),
            last_at_least=last_at_least(setup),
        )
    )


def head_cost(setup: Setup) -> float:
    """Time of head and loss over that of a decoder layer, forward and backward of one micro-batch.

    Not their FLOPs: a recomputed layer takes a third longer and the head is not, and a small micro-batch waits for the
    launches of a layer's many operations. The embedding is a copy of rows and takes next to nothing.
    """
    rates = rates_of(setup.cluster, setup.profile.time)
    part = slice_of(rates, setup)
    head = head_of(rates, setup.shape, part)
    return (head.forward + head.backward) / layer_of(rates, setup, part).total
