"""Decoder layers compiled by torch, one by one: they are alike, so that one compilation serves them all."""

from typing import Any


def compile_layers(model: Any) -> None:
    """Let torch compile each layer at its first call.

    Args:
        model: a `transformers` causal language model.
    """
    for layer in model.model.layers:
        # Micro-batches differ in width: with sizes left open there is one compilation, not one for each of them.
        layer.compile(dynamic=True)
