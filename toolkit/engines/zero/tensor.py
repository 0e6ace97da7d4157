"""What DeepSpeed's AutoTP leaves to be looked after: that layers were cut, and whole weights for the export."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.module_inject.layers import DS_IS_REPLACED_MODULE

from toolkit.errors import EngineError
from toolkit.planner.plan import Plan


def check_cut(module: torch.nn.Module, plan: Plan) -> None:
    """Refuse a model that AutoTP has not divided as planned: uncut layers train too, as copies that cost their memory.

    Raises:
        EngineError: naming the first layer that is whole, or of another size.
    """
    tp = plan.strategy.layout.tp
    if tp == 1:
        return
    whole = plan.model.weight_shapes
    for name, parameter in module.named_parameters():
        if not name.endswith("_proj.weight"):
            continue
        expected = math.prod(whole[name]) // tp
        if parameter.numel() != expected:
            raise EngineError(
                f"DeepSpeed {deepspeed.__version__} left {parameter.numel():,} numbers of {name} on this rank, tp={tp} "
                f"needs {expected:,}; plan again with tp=1"
            )


@contextmanager
def gathered(parameter: torch.nn.Parameter) -> Iterator[None]:
    """The whole weight in the place of a rank's part, which is back afterwards: a view of ZeRO's buffer, as before."""
    if not getattr(parameter, DS_IS_REPLACED_MODULE, False):
        yield
        return
    part = parameter.data
    cut: Any = parameter
    cut.gather_params([parameter])
    try:
        yield
    finally:
        parameter.data = part
