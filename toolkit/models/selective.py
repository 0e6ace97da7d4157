"""Selective checkpointing: what matrix products and attention give is kept, the cheap rest is computed again.

A product of inner size k takes k FLOPs for each byte that its output would take in 16 bits; norms, rotations, residuals
and activations take a handful. So all products are kept but those that nothing needs or that have a small k.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
# Not bmm: of attention that is written out it gives the scores, which are to be computed again (2205.05198, section 5).
_ATTENTION = "_scaled_dot_product_"
"""What the names of torch's attention kernels begin with, on all devices."""


@dataclass(frozen=True)
class Kept:
    """Which products of a decoder layer are kept."""

    hidden: int
    """Width of the residual stream."""
    ffn: int
    """Inside of the MLP on one rank."""
    tp: int = 1
    """Tensor-parallel ranks."""
    thin: int = 0
    """Rank of adapters, 0 without: their second product costs less than the memory for its output."""

    def product(self, inner: int, outputs: int) -> bool:
        """Whether to keep [tokens, inner] x [inner, outputs]."""
        if self.tp > 1 and outputs == self.hidden:
            # Row-parallel: the ranks' parts are added up in the product's own memory (RowParallel in DeepSpeed's
            # module_inject/layers.py). What was kept would be the sum, which would be added up again.
            return False
        # The last product: nothing in the layer's backward pass needs it, and recomputing stops before it.
        return inner > self.thin and (inner, outputs) != (self.ffn, self.hidden)


def selective(kept: Kept) -> Callable[..., Any]:
    """A checkpoint function for the layers of `transformers` that keeps what is dear."""
    contexts = functools.partial(create_selective_checkpoint_contexts, functools.partial(_policy, kept))
    return functools.partial(checkpoint, use_reentrant=False, context_fn=contexts)


def _policy(kept: Kept, context: SelectiveCheckpointContext, op: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    """For one operation, as torch asks."""
    keeps = kept.product(*inputs[-1].shape) if op in _PRODUCTS else op.__name__.startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE
