"""What is asked of ZeRO++ (arXiv 2306.10209): weights and gradients that ZeRO-3 sends in fewer bits, or not so far."""

from typing import Any, NamedTuple

from typing_extensions import Self

from toolkit.specs.communication import CommunicationConfig


class ZeroPlusPlus(NamedTuple):
    """What is asked for, under the names of the recipe."""

    quantized_weights: bool = False
    quantized_gradients: bool = False
    hpz_partition_size: int = 1

    @classmethod
    def of(cls, asked: CommunicationConfig) -> Self:
        """Of a recipe."""
        return cls(asked.quantized_weights, asked.quantized_gradients, asked.hpz_partition_size)

    @property
    def keys(self) -> dict[str, Any]:
        """As keys of ds_config's zero_optimization: those that differ from DeepSpeed's defaults."""
        pairs = zip(self._fields, self, PLAIN, strict=True)
        return {f"zero_{name}": given for name, given, usual in pairs if given != usual}


PLAIN = ZeroPlusPlus()
