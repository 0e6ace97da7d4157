"""Decoder layers compiled by torch, one by one: they are alike, so that one compilation serves them all."""

from contextlib import AbstractContextManager
from typing import Any

import torch


def compile_layers(model: Any) -> None:
    """Let torch compile each layer at its first call.

    Args:
        model: a `transformers` causal language model.
    """
    for layer in model.model.layers:
        # Micro-batches differ in width: with sizes left open there is one compilation, not one for each of them.
        layer.compile(dynamic=True)


def uncompiled() -> AbstractContextManager[None]:
    """Run compiled layers as they are written, for as long as the context lasts; what is compiled stays.

    For generation: every length of its cache would be compiled anew, and after eight of them
    (`torch._dynamo.config.recompile_limit`) torch gives the layers up, in training too.
    """
    context: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return context
