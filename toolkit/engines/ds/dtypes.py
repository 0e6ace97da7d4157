"""How wide the numbers of a run are, read off the engine that DeepSpeed has made."""

from collections.abc import Iterable
from typing import Any

import torch

from toolkit.engines.ds.moments import Moments, QuantisedMoments
from toolkit.engines.ds.parts import Keeper
from toolkit.engines.ds.whole import WholeTensors

_WORDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "8 bits"}


def dtypes_note(engine: Any, keeper: Keeper, moments: Moments) -> str:
    """One sentence: weights of the forward pass, gradients, and what the optimizer keeps.

    Args:
        engine: DeepSpeed's.
        keeper: of the optimizer's buffers.
        moments: what it keeps beside them.
    """
    weights = _words(parameter.dtype for parameter in engine.module.parameters())
    if engine.torch_autocast_enabled():
        weights += f" (rounded to {_words([engine.torch_autocast_dtype()])} within autocast)"
    summed, sent = _gradients(engine)
    return (
        f"numbers: weights {weights}; gradients {summed}, sent in {sent}; optimizer's weights "
        f"{_words(holder.flat.dtype for holder in keeper.holders)}, {_moments(keeper, moments)}"
    )


def _gradients(engine: Any) -> tuple[str, str]:
    """As they are added up over micro-batches, and as they travel between ranks."""
    optimizer = engine.optimizer
    trained = {parameter.dtype for parameter in engine.module.parameters() if parameter.requires_grad}
    kept = getattr(optimizer, "gradient_accumulation_dtype", getattr(optimizer, "grad_acc_dtype", None))
    # ZeRO 1-3 have a bucket for each type that they send; others send all in one.
    buckets = getattr(optimizer, "ipg_buckets", None) or [engine.communication_data_type]
    return _words(trained if kept is None else [kept]), _words(buckets)


def _moments(keeper: Keeper, moments: Moments) -> str:
    states = (keeper.base.state.get(holder.flat, {}) for holder in keeper.holders)
    found = [held.dtype for kept in states for held in kept.values() if isinstance(held, torch.Tensor) and held.ndim]
    if found:
        return f"moments {_words(found)}"
    # Most optimizers make them in their first step; torch's and pytorch_optimizer's of the type of the weights.
    match moments:
        case QuantisedMoments():
            kinds = {moments.dtype_of(holder.flat) for holder in keeper.holders}
            scales = ", with fp32 scales" if torch.uint8 in kinds else ""
            return f"moments {_words(kinds)}{scales}"
        case WholeTensors():
            return "states of whole tensors like them"
    return "moments like them"


def _words(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted({_WORDS.get(dtype, str(dtype)) for dtype in dtypes}))
