"""LoRA on Megatron's parallel linears: the very adapters that peft makes for q, k, v and the others, cut like those.

peft has Megatron layers of its own; with 0.21.2 they fail (KeyError 'fan_in_fan_out'), and they take no tuple, which
Megatron's linears give. Adapters of joined layers are kept apart, so that they are peft's own, number by number.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from megatron.core.tensor_parallel import (
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from toolkit.models.names import ADAPTER_NAME

A, B = f"lora_A.{ADAPTER_NAME}.weight", f"lora_B.{ADAPTER_NAME}.weight"
"""How the names of an adapter's tensors end, after that of its layer."""


class Found(NamedTuple):
    """An adapter as peft has made it."""

    rank: int
    scale: float


def adapters_of(model: Any) -> dict[str, Found]:
    """The adapters of a peft model, by the names of the adapted layers in the model inside of it."""
    return {
        name: Found(layer.r[ADAPTER_NAME], float(layer.scaling[ADAPTER_NAME]))
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and ADAPTER_NAME in layer.lora_A
    }


class Adapter(torch.nn.Module):
    """This rank's part of B A x, for a layer whose output (column) or input (row) is cut.

    Args:
        found: rank and scale.
        inputs: of the layer on this rank.
        outputs: on this rank.
        config: Megatron's.
        by_row: the layer's input is cut.
        like: the layer's weight.
    """

    def __init__(
        self,
        found: Found,
        *,
        inputs: int,
        outputs: int,
        config: TransformerConfig,
        by_row: bool,
        like: torch.Tensor,
    ) -> None:
        super().__init__()
        self._by_row, self._scale, self._sequence_parallel = by_row, found.scale, config.sequence_parallel
        self.lora_A = torch.nn.Parameter(like.new_empty(found.rank, inputs))
        self.lora_B = torch.nn.Parameter(like.new_empty(outputs, found.rank))
        # What is whole on every rank has met a part of the tokens: its gradients are to be added up.
        whole: Any = self.lora_B if by_row else self.lora_A
        whole.sequence_parallel = self._sequence_parallel

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[seq, batch, inputs] to [seq, batch, outputs], as the layer takes and gives them.

        What travels between the ranks is as narrow as the adapter.
        """
        low = hidden @ self.lora_A.t()
        if self._by_row and self._sequence_parallel:
            low = reduce_scatter_to_sequence_parallel_region(low)
        elif self._by_row:
            low = reduce_from_tensor_model_parallel_region(low)
        elif self._sequence_parallel:
            low = gather_from_sequence_parallel_region(low)
        else:
            low = copy_to_tensor_model_parallel_region(low)
        added: torch.Tensor = self._scale * (low @ self.lora_B.t())
        return added


class AdaptedLinear(torch.nn.Module):
    """One of Megatron's linears with adapters for the layers that are joined in it.

    Args:
        base: the linear.
        found: adapters by the names of those layers.
        widths: outputs of each of the joined layers on this rank, in their order.
        rounds: how often they take turns in the output.
        config: Megatron's.
    """

    def __init__(
        self,
        base: Any,
        found: Mapping[str, Found],
        *,
        widths: Mapping[str, int],
        rounds: int,
        config: TransformerConfig,
    ) -> None:
        super().__init__()
        self.base, self._widths, self._rounds = base, dict(widths), rounds
        by_row = isinstance(base, RowParallelLinear)
        self.adapters = torch.nn.ModuleDict(
            {
                name: Adapter(
                    adapter,
                    inputs=base.weight.shape[1],
                    outputs=widths[name],
                    config=config,
                    by_row=by_row,
                    like=base.weight.detach(),
                )
                for name, adapter in found.items()
            }
        )

    def forward(self, hidden: torch.Tensor, *args: Any, **more: Any) -> tuple[torch.Tensor, Any]:
        """As the linear: its output, and its bias."""
        output, bias = self.base(hidden, *args, **more)
        added = [self._added(name, hidden, output) for name in self._widths]
        return output + torch.cat(added, dim=-1).flatten(-2), bias

    def _added(self, name: str, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What the adapter of one layer adds: [seq, batch, rounds, width / rounds]."""
        shape = (*output.shape[:-1], self._rounds, self._widths[name] // self._rounds)
        if name not in self.adapters:
            return output.new_zeros(1).expand(shape)
        added: torch.Tensor = self.adapters[name](hidden).view(shape)
        return added
