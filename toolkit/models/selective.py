"""Selective checkpointing: what matrix products and attention give is kept, the cheap rest is computed again.

A product of inner size k takes k FLOPs for each byte that its output would take in 16 bits; norms, rotations, residuals
and activations take a handful. So all products are kept but those that nothing needs or that have a small k.
"""

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
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

    def output(self, op: Any, inputs: tuple[Any, ...]) -> bool:
        """Whether to keep what an operation of torch's dispatcher gives."""
        if op in _PRODUCTS:
            return self.product(*inputs[-1].shape)
        name: str = op.__name__
        return name.startswith(_ATTENTION)


def selective(kept: Kept, *, compiled: bool) -> Callable[..., Any]:
    """A checkpoint function for the layers of `transformers` that keeps what is dear.

    Args:
        kept: what that is.
        compiled: torch compiles the layers, and reads from contexts of its own what to keep. They want the same
            operations in both passes, one by one. Elsewhere ours do without: inside of a layer ZeRO-3 gathers other
            weights in the backward pass than in the forward pass, and torch's raise RuntimeError.
    """
    contexts: Callable[[], Any] = functools.partial(_contexts, kept)
    if compiled:
        contexts = functools.partial(create_selective_checkpoint_contexts, functools.partial(_policy, kept))
    return functools.partial(checkpoint, use_reentrant=False, context_fn=contexts)


def _policy(kept: Kept, context: SelectiveCheckpointContext, op: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if kept.output(op, inputs) else CheckpointPolicy.PREFER_RECOMPUTE


def _contexts(kept: Kept) -> tuple["_Keeping", "_Giving"]:
    """Of the forward pass of one layer, and of its repetition."""
    outputs: deque[Any] = deque()
    return _Keeping(kept, outputs), _Giving(kept, outputs)


class _Keeping(TorchDispatchMode):
    """Puts what operations give into a queue."""

    def __init__(self, kept: Kept, outputs: deque[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._outputs = kept, outputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._kept.output(func, args):
            # Autograd marks what is returned: kept as it is, it would hold the graph that holds it.
            self._outputs.append(tree_map_only(torch.Tensor, torch.Tensor.detach, output))
        return output


class _Giving(TorchDispatchMode):
    """Takes them out again, in the same order, in the place of computing them."""

    def __init__(self, kept: Kept, outputs: deque[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._outputs = kept, outputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._kept.output(func, args):
            return self._outputs.popleft()
        return func(*args, **(kwargs or {}))
