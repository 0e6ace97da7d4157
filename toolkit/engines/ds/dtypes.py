"""What a run trains and how wide its numbers are, read off the engine that DeepSpeed has made."""

from collections.abc import Sequence
from typing import Any

import torch

from toolkit.engines.base import Prepared
from toolkit.engines.common.lost import sizes_of
from toolkit.engines.common.tensors import Tensor, words_of
from toolkit.engines.ds.moments import Moments, QuantisedMoments
from toolkit.engines.ds.parts import Keeper
from toolkit.engines.ds.whole import WholeTensors


def prepared_of(engine: Any, keeper: Keeper, moments: Moments, *, tensors: Sequence[Tensor]) -> Prepared:
    """What DeepSpeed has made of a model and an optimizer.

    Args:
        engine: DeepSpeed's.
        keeper: of the optimizer's buffers.
        moments: what it keeps beside them.
        tensors: all trained tensors of this rank.
    """
    weights = words_of(parameter.dtype for parameter in engine.module.parameters())
    if engine.torch_autocast_enabled():
        weights += f" (rounded to {words_of([engine.torch_autocast_dtype()])} within autocast)"
    summed, sent = _gradients(engine)
    return Prepared(
        trained=sizes_of(tensors),
        weights=weights,
        gradients=summed,
        sent=sent,
        masters=words_of(holder.flat.dtype for holder in keeper.holders),
        moments=_moments(keeper, moments),
        max_norm=float(engine.gradient_clipping()),
    )


def _gradients(engine: Any) -> tuple[str, str]:
    """As they are added up over micro-batches, and as they travel between ranks."""
    optimizer = engine.optimizer
    trained = {parameter.dtype for parameter in engine.module.parameters() if parameter.requires_grad}
    kept = getattr(optimizer, "gradient_accumulation_dtype", getattr(optimizer, "grad_acc_dtype", None))
    # ZeRO 1-3 have a bucket for each type that they send; others send all in one.
    buckets = getattr(optimizer, "ipg_buckets", None) or [engine.communication_data_type]
    return words_of(trained if kept is None else [kept]), words_of(buckets)


def _moments(keeper: Keeper, moments: Moments) -> str:
    states = (keeper.base.state.get(holder.flat, {}) for holder in keeper.holders)
    found = [held.dtype for kept in states for held in kept.values() if isinstance(held, torch.Tensor) and held.ndim]
    if found:
        return f"moments {words_of(found)}"
    # Most optimizers make them in their first step; torch's and pytorch_optimizer's of the type of the weights.
    match moments:
        case QuantisedMoments():
            kinds = {moments.dtype_of(holder.flat) for holder in keeper.holders}
            scales = ", with fp32 scales" if torch.uint8 in kinds else ""
            return f"moments {words_of(kinds)}{scales}"
        case WholeTensors():
            return "states of whole tensors like them"
    return "moments like them"
