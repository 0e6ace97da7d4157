"""Layers and head on processors, from measured tables.

Nothing runs beside anything else there, so the times of the operations add up. How many bytes each of them reads and
writes was counted operation by operation (torch's dispatcher on transformers 5 LlamaForCausalLM);
how fast, `toolkit calibrate` has measured by size. docs/planner-time.md has the counts.
"""

from typing import NamedTuple

from toolkit.planner.cost.compute import Seconds, Slice, adapter_seconds, matmul_seconds
from toolkit.planner.cost.rates import Rates
from toolkit.planner.cost.tables import attention_rate, by_size
from toolkit.planner.setup import wide_bytes
from toolkit.planner.shape import Shape
from toolkit.specs.workload import loss_block


class Moved(NamedTuple):
    """Bytes that the elementwise operations of a decoder layer read and write per token and element of each width."""

    hidden: float
    query: float
    key_value: float
    ffn: float


FORWARD = {"fp32": Moved(80, 40, 40, 20), "bf16": Moved(84, 20, 20, 10)}
BACKWARD = {"fp32": Moved(244, 64, 64, 36), "bf16": Moved(214, 32, 32, 18)}
"""Norms compute in fp32 whatever the type of the weights."""

HEAD_OPS = 800.0
"""Operations outside of the layers per micro-batch: embedding, rotation table, mask, loss, DeepSpeed's forward and
backward. Timed with layers too small to take time, as all counts of operations here: seconds / `op_seconds`."""
LOGIT_CAST_BYTES = 12.0
"""Bytes moved per 16-bit logit to make it fp32 and its gradient 16-bit again."""


def layer_seconds(rates: Rates, shape: Shape, part: Slice) -> Seconds:
    """One decoder layer, without what starting its operations takes."""
    products = [_linear(rates, part, inputs=k, outputs=n) for n, k in _linears(shape, part.tp)]
    flops = 4.0 * part.seq_len * part.tokens * shape.query / part.tp
    rate_forward, rate_backward = attention_rate(rates.attention, part.seq_len, shape.query / shape.num_heads)
    scale = _scale(rates, part.precision)
    attention = (flops / rate_forward / scale, 2.5 * flops / rate_backward / scale)
    elementwise = _elementwise(rates, shape, part, FORWARD)
    forward = sum(one.forward for one in products) + attention[0] + elementwise
    backward = sum(one.backward for one in products) + attention[1] + _elementwise(rates, shape, part, BACKWARD)
    adapters = adapter_seconds(rates, shape, part) if part.method != "full" else 0.0
    forward, backward = forward + adapters, backward + 2 * adapters
    # The engines of a processor keep products; the fourth is the one whose parts tensor-parallel ranks add up.
    again = elementwise + adapters + (products[3].forward if part.tp > 1 else 0.0)
    return Seconds(forward, backward, again, sum(attention), products[-1].forward)


def _linears(shape: Shape, tp: int) -> list[tuple[float, float]]:
    """(outputs, inputs) of the linear layers, the last one last."""
    hidden, query, key_value, ffn = shape.hidden, shape.query / tp, shape.key_value / tp, shape.ffn / tp
    wide = [(ffn, hidden)] * (2 if shape.gated else 1)
    return [(query, hidden), (key_value, hidden), (key_value, hidden), (hidden, query), *wide, (hidden, ffn)]


def _linear(rates: Rates, part: Slice, *, inputs: float, outputs: float) -> Seconds:
    """A linear layer; the gradient of a trained weight sums over tokens, which a small micro-batch has few of."""
    tokens = part.tokens
    forward = matmul_seconds(rates, (tokens, outputs, inputs), precision=part.precision)
    backward = matmul_seconds(rates, (tokens, inputs, outputs), precision=part.precision)
    if part.method == "full":
        backward += matmul_seconds(rates, (outputs, inputs, tokens), precision=part.precision)
    return Seconds(forward, backward)


def _scale(rates: Rates, precision: str) -> float:
    """What attention gains in another type than the measured one: as the matrix products at most."""
    measured = rates.attention[0].precision
    return 1.0 if measured == precision else rates.peak[precision] / rates.peak[measured]


def _elementwise(rates: Rates, shape: Shape, part: Slice, counts: dict[str, Moved]) -> float:
    moved, width = counts["fp32" if part.precision == "fp32" else "bf16"], wide_bytes(part.precision)
    total = 0.0
    for count, size in zip(moved, (shape.hidden, shape.query, shape.key_value, shape.ffn), strict=True):
        elements = part.tokens * size / part.tp
        total += count * elements / by_size(rates.elementwise, width * elements)
    return total


def head_seconds(rates: Rates, shape: Shape, part: Slice) -> Seconds:
    """The product with the head, the cross entropy, and all operations outside of the layers."""
    precision = "fp32" if part.precision == "fp32" else "bf16"
    logits = part.tokens * shape.vocab / part.tp
    product = _linear(rates, part, inputs=shape.hidden, outputs=shape.vocab / part.tp)
    at_once = logits
    if part.chunked_loss:
        columns = shape.vocab // part.tp
        at_once = float(part.tokens * loss_block(part.tokens, columns))
        product = Seconds(product.forward, product.backward + product.forward)
    # Each exponential is taken forward and backward, as in a plain cross entropy, of so many logits at a time.
    loss = 4.0 * logits / by_size(rates.loss, 4.0 * at_once)
    if precision != "fp32":
        loss += LOGIT_CAST_BYTES * logits / by_size(rates.elementwise, 4.0 * logits)
    other = HEAD_OPS * rates.op_seconds
    return Seconds(product.forward + (loss + other) / 3, product.backward + (loss + other) * 2 / 3)
