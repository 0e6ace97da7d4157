"""What one rank computes while all ranks compute: matrix products, elementwise traffic, small operations, Adam."""

import collections
import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import linear

from toolkit.calibration.ranks import BORROWED_SHARES, PASSES, Ranks, TimeBox
from toolkit.engines.ds.optimizer import build_optimizer
from toolkit.specs.measurements import MatmulRate
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.workload import PRECISION_BYTES, Precision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Say = Callable[[str], None]
"""Shows what is measured now."""

_PEAK_WIDTH = {"cpu": 512, "cuda": 8192}
"""Width of the square product that stands for a precision's peak."""
_ELEMENTWISE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
"""Size of each of the three tensors, that of an activation. On a CPU the rate falls with size: measured 107 GB/s in a
core's own cache, 28 GB/s at 2 to 8 MiB, 16 at 16 MiB, and 6 from 32 MiB on, where glibc maps every new tensor afresh.
"""
_BEYOND_CACHES, _MOST_COPIES = 32 * 2**20, 128
_CHAIN = 200
_ADAM_TENSORS, _ADAM_NUMEL = 8, 2**20
_SHARE_SECONDS = 0.1
_ALWAYS_FLOPS = 1e9
"""Products up to here are timed once whatever the time."""
ADAM_BYTES = 28
"""Bytes that an fp32 Adam step moves per parameter: weight and two moments read and written, the gradient read."""


def matmul_shapes(kind: str) -> list[tuple[int, int, int]]:
    """(m, n, k) = (tokens, outputs, inputs) from the cheapest to the dearest product.

    Squares, up and down projections (1:4) and heads (wide n) over 64 to 8192 tokens; with m and k exchanged the same
    shapes stand for the products of the backward pass, whose k is the number of tokens.
    """
    widths = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
    shapes = {(tokens, width, width) for width in widths for tokens in (64, 512, 4096)}
    for width in (128, 512, 2048):
        shapes |= {(512, 4 * width, width), (512, width, 4 * width), (4096, 4 * width, width)}
    shapes |= {(256, 256, 4096), (1024, 1024, 8192), (8192, 256, 256), (8192, 4096, 4096), (512, 32768, 512)}
    if kind == "cuda":
        shapes |= {(4096, 16384, 4096), (4096, 4096, 16384), (8192, 16384, 16384)}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1] * shape[2], shape))


def matmul_rates(ranks: Ranks, precision: Precision, *, seconds: float, say: Say) -> list[MatmulRate]:
    """Every shape that fits into the time, as `linear` computes it in the forward pass."""
    shapes = matmul_shapes(ranks.device.type)
    taken: dict[tuple[int, int, int], list[float]] = {}
    box = TimeBox(ranks, seconds, items_per_pass=len(shapes))
    rate = 0.0
    for place, (m, n, k) in enumerate(shapes * PASSES):
        share, flops = box.share(), 2.0 * m * n * k
        # A warm-up, a trial and three repetitions, at the rate of the product before.
        always = place < len(shapes) and flops <= _ALWAYS_FLOPS
        if not always and 5 * flops > BORROWED_SHARES * share * rate:
            continue
        say(f"{m} x {n} x {k}")
        one = _matmul_seconds(ranks, (m, n, k), DTYPES[precision], allowed=share)
        taken.setdefault((m, n, k), []).append(one)
        rate = flops / one
    return [
        MatmulRate(m=m, n=n, k=k, precision=precision, flops_per_second=2.0 * m * n * k / min(times))
        for (m, n, k), times in taken.items()
    ]


def peak_flops(ranks: Ranks, precision: Precision) -> float:
    """FLOP/s of one large square product."""
    width = _PEAK_WIDTH[ranks.device.type]
    return 2.0 * width**3 / _matmul_seconds(ranks, (width, width, width), DTYPES[precision], allowed=0.2)


def _matmul_seconds(ranks: Ranks, shape: tuple[int, int, int], dtype: torch.dtype, *, allowed: float) -> float:
    m, n, k = shape
    sizes = ((m, k), (n, k))
    copies = num_copies(ranks, dtype.itemsize * (m * k + n * k + m * n))
    factors = [tuple(torch.randn(size, device=ranks.device).to(dtype) for size in sizes) for _ in range(copies)]
    with torch.no_grad():
        return ranks.seconds_of(taking_turns(linear, factors), allowed=allowed)


def num_copies(ranks: Ranks, num_bytes: int, *, between: int = _BEYOND_CACHES) -> int:
    """How many sets of tensors operations must go through so that a processor's own cache holds none of the next set:
    between two uses of an activation a step computes everything else. GPUs have caches too small to matter.

    Args:
        ranks: where this is computed.
        num_bytes: of one set.
        between: bytes that a step touches before it comes to the same tensors again.
    """
    return min(_MOST_COPIES, between // num_bytes + 1) if ranks.device.type == "cpu" else 1


def taking_turns(operation: Callable[..., object], inputs: Sequence[tuple[torch.Tensor, ...]]) -> Callable[[], None]:
    """The operation on the next inputs with every call; as many outputs are kept as there are inputs."""
    turns, kept = itertools.cycle(inputs), collections.deque[object](maxlen=len(inputs) - 1)

    def call() -> None:
        kept.append(operation(*next(turns)))

    return call


def memory_bandwidth(ranks: Ranks, precision: Precision, *, seconds: float) -> float:
    """Bytes/s of one rank's c = a + b into a new tensor, as eager operations do: two read, one written."""
    dtype, num_bytes = DTYPES[precision], _ELEMENTWISE_BYTES[ranks.device.type]
    numel = num_bytes // PRECISION_BYTES[precision]
    a, b = (torch.ones(numel, dtype=dtype, device=ranks.device) for _ in range(2))
    return 3 * num_bytes / ranks.seconds_of(lambda: a + b, allowed=seconds)


def processor_share(ranks: Ranks) -> float:
    """Part of a moment that the least favoured rank had a processor, all computing at once; 1 on a quiet machine."""
    square = torch.ones(256, 256)
    ranks.slowest(0.0)
    began, computed = time.perf_counter(), time.thread_time()
    while (elapsed := time.perf_counter() - began) < _SHARE_SECONDS:
        torch.mm(square, square)
    return 1.0 - ranks.slowest(1.0 - (time.thread_time() - computed) / elapsed)


def op_seconds(ranks: Ranks, *, seconds: float) -> float:
    """Seconds per operation of a chain of multiplications of 8 numbers, forward and backward averaged."""
    start = torch.ones(8, device=ranks.device, requires_grad=True)
    factor = torch.ones(8, device=ranks.device)

    def forward_and_backward() -> None:
        value = start
        for _ in range(_CHAIN):
            value = value * factor
        value.backward(factor)  # type: ignore[no-untyped-call]

    return ranks.seconds_of(forward_and_backward, allowed=seconds) / (2 * _CHAIN)


def adam_bandwidth(ranks: Ranks, *, seconds: float) -> tuple[float, str]:
    """Bytes/s over all ranks of the host's AdamW that training would use, and which that is."""
    parameters = [torch.nn.Parameter(torch.ones(_ADAM_NUMEL)) for _ in range(_ADAM_TENSORS)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    offload = ranks.device.type == "cuda"
    built = build_optimizer([{"params": parameters}], OptimizerConfig(), "adamw", device=ranks.device, offload=offload)
    taken = ranks.seconds_of(built.optimizer.step, allowed=seconds)
    return ranks.world_size * ADAM_BYTES * _ADAM_TENSORS * _ADAM_NUMEL / taken, built.note.removeprefix("optimizer: ")
