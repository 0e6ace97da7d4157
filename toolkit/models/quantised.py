"""The linear layers of decoder layers in 4 bits (NF4, 2305.14314), quantised one by one as their weights are read."""

from typing import Any

import torch

from toolkit.errors import INSTALL_QUANT, MachineError
from toolkit.models.unloaded import UnloadedModel

try:
    from bitsandbytes.nn import Linear4bit, Params4bit
except ImportError as error:
    raise MachineError(f"method=qlora needs bitsandbytes ({error}); {INSTALL_QUANT}") from None


def quantise_layers(model: UnloadedModel, *, double: bool) -> None:
    """Make the linear layers of all decoder layers keep 4-bit weights; embedding and head stay as they are.

    No rank ever has more than one of these weights in 16 bits: it goes to the device, becomes 4 bits and is forgotten.

    Args:
        model: with its weights on disk, before adapters are added.
        double: quantise the scales too, which takes 0.4 bits less per weight.
    """
    for layer in model.base.model.layers:
        for owner in list(layer.modules()):
            for name, linear in list(owner.named_children()):
                if type(linear) is torch.nn.Linear:
                    setattr(owner, name, _in_4_bits(model, linear, double=double))
    # peft asks the model which of its layers it takes.
    model.base.is_loaded_in_4bit = True


def _in_4_bits(model: UnloadedModel, linear: torch.nn.Linear, *, double: bool) -> Any:
    """A layer that waits for the same weight, and computes in the precision of the one that it replaces."""
    waiting: Any = linear.weight
    kind: dict[str, Any] = {"compress_statistics": double, "quant_type": "nf4"}
    sizes = (linear.in_features, linear.out_features)
    with torch.device("meta"):
        layer: Any = Linear4bit(*sizes, bias=False, compute_dtype=waiting.dtype, **kind)

    def made(weight: torch.Tensor) -> Any:
        return Params4bit(weight, requires_grad=False, module=layer, **kind)

    layer.weight, layer.bias = made(waiting.data), linear.bias
    model.replace(waiting, layer.weight, lambda weight: made(weight).to(_device()))
    return layer


def _device() -> torch.device:
    """Of this rank: the engine has chosen it before it reads weights."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
