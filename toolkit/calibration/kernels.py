"""What a processor reaches outside of matrix products: elementwise operations, attention and cross entropy by size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

from toolkit.calibration.compute import DTYPES, Say, num_copies, taking_turns
from toolkit.calibration.ranks import PASSES, Ranks, TimeBox
from toolkit.engines.ds.heap import give_back_freed_memory
from toolkit.specs.measurements import AttentionRate, SizeRate
from toolkit.specs.workload import PRECISION_BYTES, Precision

_MIB = 2**20
_MAPPED_AFRESH = 32 * _MIB
"""From this size on glibc maps every new tensor afresh (the limit of its own M_MMAP_THRESHOLD on 64 bits)."""
ELEMENTWISE_SIZES = (
    _MIB // 16,
    _MIB // 4,
    _MIB,
    4 * _MIB,
    16 * _MIB,
    _MAPPED_AFRESH - _MIB,
    _MAPPED_AFRESH,
    128 * _MIB,
)
LOSS_SIZES = (_MIB // 4, 2 * _MIB, _MAPPED_AFRESH // 2, _MAPPED_AFRESH, 128 * _MIB)
_LOSS_VOCAB = 8192
_BETWEEN_LOSSES = 128 * _MIB
"""A step computes all layers, forward and backward, between two losses. Of 8 MiB of logits one took 13 ms in a step,
5 ms when it was computed again and again, 9 ms in turns with others."""
ATTENTION_SHAPES = tuple((length, width) for length in (64, 128, 256, 512, 1024, 2048) for width in (32, 64, 128))
_ATTENTION_TOKENS, _ATTENTION_HEADS = 1024, 4
_ROW = 512

_Item = TypeVar("_Item")
_Timed = tuple[float, ...]


class Kernels(NamedTuple):
    """The three tables, in the fields of `Measurements`."""

    elementwise: tuple[SizeRate, ...]
    attention: tuple[AttentionRate, ...]
    loss: tuple[SizeRate, ...]


def kernel_rates(ranks: Ranks, precision: Precision, *, seconds: float, say: Say) -> Kernels:
    """All tables, of one rank while all compute."""
    _raise_mapping_threshold()
    elementwise = _least(
        ranks, ELEMENTWISE_SIZES, lambda size, allowed: _elementwise(ranks, precision, size, allowed), seconds / 4, say
    )
    shapes = _least(
        ranks, ATTENTION_SHAPES, lambda shape, allowed: _attention(ranks, precision, shape, allowed), seconds / 2, say
    )
    loss = _least(ranks, LOSS_SIZES, lambda size, allowed: _loss(ranks, size, allowed), seconds / 4, say)
    return Kernels(
        tuple(SizeRate(num_bytes=size, bytes_per_second=_PASSES * size / taken) for size, (taken,) in elementwise),
        tuple(_attention_rate(shape, precision, taken) for shape, taken in shapes),
        tuple(SizeRate(num_bytes=size, bytes_per_second=size / taken) for size, (taken,) in loss),
    )


def _least(
    ranks: Ranks, items: Sequence[_Item], measure: Callable[[_Item, float], _Timed], seconds: float, say: Say
) -> list[tuple[_Item, _Timed]]:
    """Every item with its least seconds over the passes; one pass at least, whatever it costs."""
    taken: dict[int, list[_Timed]] = {}
    box = TimeBox(ranks, seconds, items_per_pass=len(items))
    for place in list(range(len(items))) * PASSES:
        share = box.share()
        if share <= 0 and place in taken:
            continue
        say(str(items[place]))
        # Else a large tensor may come from what tensors before it left free, which in a step smaller ones have taken.
        give_back_freed_memory()
        taken.setdefault(place, []).append(measure(items[place], share))
    return [(items[place], tuple(map(min, zip(*passes, strict=True)))) for place, passes in sorted(taken.items())]


def _raise_mapping_threshold() -> None:
    """glibc's threshold starts at 128 KiB and follows the largest mapping that was freed; a run's is at its limit soon,
    so that smaller tensors come from memory that the process has already."""
    torch.empty(_MAPPED_AFRESH - _MIB, dtype=torch.uint8)


_PASSES = 12
"""Tensors of the full size that `_elementwise` reads and writes."""


def _elementwise(ranks: Ranks, precision: Precision, num_bytes: int, allowed: float) -> _Timed:
    """Seconds of five operations as in norms, rotations, residuals and activations; each writes a new tensor."""
    rows, dtype = max(1, num_bytes // PRECISION_BYTES[precision] // _ROW), DTYPES[precision]
    row = torch.ones(_ROW, dtype=dtype)
    copies = num_copies(ranks, (2 + 5) * num_bytes)
    inputs = [(torch.randn(rows, _ROW).to(dtype), torch.randn(rows, _ROW).to(dtype)) for _ in range(copies)]

    def five(a: torch.Tensor, b: torch.Tensor) -> object:
        if copies == 1:  # nothing is kept: what is made is freed at once, as of large tensors in a step
            a + b
            a * b
            a * row
            a.pow(2)
            silu(a)
            return None
        return a + b, a * b, a * row, a.pow(2), silu(a)

    return (ranks.seconds_of(taking_turns(five, inputs), allowed=allowed),)


def _attention(ranks: Ranks, precision: Precision, shape: tuple[int, int], allowed: float) -> _Timed:
    """(forward, backward) seconds; heads lie beside each other in memory, as a linear layer leaves them."""
    length, width = shape
    batch = max(1, _ATTENTION_TOKENS // length)
    sizes = (batch, length, _ATTENTION_HEADS, width)
    query, key, value = (torch.randn(sizes).to(DTYPES[precision]).transpose(1, 2).requires_grad_() for _ in range(3))
    out = scaled_dot_product_attention(query, key, value, is_causal=True)
    ones = torch.ones_like(out)
    with torch.no_grad():
        forward = ranks.seconds_of(
            lambda: scaled_dot_product_attention(query, key, value, is_causal=True), allowed=allowed / 3
        )
    backward = ranks.seconds_of(
        lambda: torch.autograd.grad(out, (query, key, value), ones, retain_graph=True), allowed=allowed * 2 / 3
    )
    return forward, backward


def _attention_rate(shape: tuple[int, int], precision: Precision, taken: _Timed) -> AttentionRate:
    length, width = shape
    flops = 4.0 * length * max(length, _ATTENTION_TOKENS) * _ATTENTION_HEADS * width
    forward, backward = taken
    return AttentionRate(
        seq_len=length, head_dim=width, precision=precision, forward=flops / forward, backward=2.5 * flops / backward
    )


def _loss(ranks: Ranks, num_bytes: int, allowed: float) -> _Timed:
    """Seconds of a cross entropy of fp32 logits and its gradient."""
    rows = max(1, num_bytes // 4 // _LOSS_VOCAB)
    copies = num_copies(ranks, 3 * num_bytes, between=_BETWEEN_LOSSES)
    inputs = [
        (torch.randn(rows, _LOSS_VOCAB, requires_grad=True), torch.randint(0, _LOSS_VOCAB, (rows,)))
        for _ in range(copies)
    ]

    def both(logits: torch.Tensor, labels: torch.Tensor) -> object:
        return torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), logits)

    return (ranks.seconds_of(taking_turns(both, inputs), allowed=allowed),)
