"""Parameters of one rank, as collectives, optimizer and offload see them."""

from typing import NamedTuple

from toolkit.planner.setup import Setup


class Owned(NamedTuple):
    """Parameters of the fullest rank before ZeRO divides them."""

    params: float
    """All weights of its stage and tensor slice."""
    trained: float
    """Those that get gradients: all, or the adapters."""
    weight_bytes: float
    """Bytes of the weights as they are gathered."""


def owned(setup: Setup, most: int, last: int) -> Owned:
    """Parameters of the fullest stage, of one with `most` layers or the last with `last` layers and the head."""
    shape = setup.shape
    edge = shape.vocab * shape.hidden
    if setup.pp == 1:
        params = shape.num_layers * shape.layer_params + edge + shape.head_params
    else:
        params = max(most, last) * shape.layer_params + edge
    own = params / setup.tp
    if setup.method == "full":
        return Owned(own, own, own * setup.carried_bytes)
    width = setup.states.frozen if setup.method == "qlora" else setup.carried_bytes
    return Owned(own, setup.adapter_params * most / setup.tp, own * width)
