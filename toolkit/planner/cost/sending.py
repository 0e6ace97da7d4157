"""What replicas send each other where the recipe has it otherwise than the engine: its bytes, and its own arithmetic.

Bytes per number are counted in toolkit/engines/zero/exchange.py, low_rank.py and local_sgd.py and in torch's hooks
(torch/distributed/algorithms/ddp_comm_hooks), each tensor read or written once per operation, in fp32.
"""

from collections.abc import Iterator
from typing import NamedTuple

from toolkit.planner.cost.compute import matmul_seconds
from toolkit.planner.cost.cpu_engine import SMALL
from toolkit.planner.cost.network import all_reduce_seconds, gather_seconds, ring
from toolkit.planner.cost.owned import Owned
from toolkit.planner.cost.rates import Rates
from toolkit.planner.cost.tables import by_size
from toolkit.planner.setup import Setup
from toolkit.specs.communication import thin_columns

MOVED = {"fp16": 60.0, "bf16": 40.0, "powersgd": 32.0, "topk": 52.0, "none": 12.0}
"""Bytes read and written per number: norms before and after, gradients put end to end and back; scaled and rounded;
added to what waits, beside the products; magnitudes; of local steps a norm and the clipping."""
THIN_MOVED = 120.0
"""Bytes per number of PowerSGD's thin matrices: brought to length one, put end to end, rounded, taken apart."""
QR_FLOPS = 24.0
"""FLOPs of a matrix product that take as long as making thin matrices orthogonal does, per row and rank^2: 4 are
counted (Householder), and on one core they run at a sixth of a product's rate (16 x 256 x 32 in 2.4 ms)."""
AVERAGED = 8.0
"""Bytes per number that ends a round of local steps: divided in place."""
CHOSEN_SECONDS = 1.8e-8
"""Seconds per number of torch's top-k on one core: 1.1, 1.8 and 2.4e-8 measured on 1, 4 and 17 million numbers."""


class Matrices(NamedTuple):
    """Trained tensors of one shape."""

    rows: float
    columns: float
    number: int


class Sent(NamedTuple):
    """Seconds of one optimizer step."""

    collectives: float
    """On the links."""
    arithmetic: float
    """Of the ranks themselves."""


def sent(rates: Rates, setup: Setup, own: Owned) -> Sent:
    """What takes the place of the all-reduce of the gradients, a round of local steps divided over its steps."""
    asked, numbers = setup.communication, own.trained
    group = ring(rates, setup.shards, setup.tp)
    agreed = all_reduce_seconds(rates, group, SMALL)
    moved = _moved(rates, MOVED[asked.compression] * numbers, num_bytes=4 * numbers)
    if asked.local_steps > 1:
        averaged = all_reduce_seconds(rates, group, 4 * numbers) + _moved(rates, AVERAGED * numbers, 4 * numbers)
        return Sent(agreed + averaged / asked.local_steps, moved)
    match asked.compression:
        case "powersgd":
            return _by_powersgd(rates, setup, own, moved=moved)
        case "topk":
            chosen = asked.ratio * numbers
            each = gather_seconds(rates, group, 4 * chosen * setup.shards)
            picked = CHOSEN_SECONDS * numbers if rates.on_cpu else 0.0
            return Sent(agreed + 2 * each, moved + picked)
        case "fp16":
            return Sent(2 * agreed + all_reduce_seconds(rates, group, 2 * numbers), moved)
        case _:
            return Sent(agreed + all_reduce_seconds(rates, group, 2 * numbers), moved)


def _by_powersgd(rates: Rates, setup: Setup, own: Owned, *, moved: float) -> Sent:
    """Vectors, and matrices too small to gain, with the norms; then left and right factors, one after the other."""
    group, left, right, compressed, seconds = ring(rates, setup.shards, setup.tp), 0.0, 0.0, 0.0, moved
    for one in _matrices(setup):
        rows, columns = one.rows, one.columns
        rank = thin_columns(rows, columns, setup.communication.rank)
        if not rank:
            continue
        left, right = left + one.number * rows * rank, right + one.number * columns * rank
        compressed += one.number * rows * columns
        made = ((rows, rank, columns), (columns, rank, rows), (rows, columns, rank), (rows, columns, rank))
        products = sum(matmul_seconds(rates, shape, precision="fp32") for shape in made)
        # As a product of as many FLOPs.
        orthogonal = QR_FLOPS / 2 * matmul_seconds(rates, (rows, rank, rank), precision="fp32")
        seconds += one.number * (products + orthogonal)
    seconds += _moved(rates, THIN_MOVED * (left + right) / 2, num_bytes=4 * left)
    whole = max(own.trained - compressed, 0.0)
    messages = (4 * whole + SMALL, 2 * left, 2 * right)
    return Sent(sum(all_reduce_seconds(rates, group, num_bytes) for num_bytes in messages), seconds)


def _matrices(setup: Setup) -> Iterator[Matrices]:
    """Linear layers, embedding and head, or the two thin matrices of each adapter."""
    shape, layers = setup.shape, setup.shape.num_layers
    inside = {
        "q_proj": (shape.query, shape.hidden),
        "k_proj": (shape.key_value, shape.hidden),
        "v_proj": (shape.key_value, shape.hidden),
        "o_proj": (shape.hidden, shape.query),
        "up_proj": (shape.ffn, shape.hidden),
        "down_proj": (shape.hidden, shape.ffn),
    } | ({"gate_proj": (shape.ffn, shape.hidden)} if shape.gated else {})
    if setup.method != "full":
        for name in setup.lora_targets:
            rows, columns = inside[name]
            yield Matrices(rows, setup.lora_rank, layers)
            yield Matrices(setup.lora_rank, columns, layers)
        return
    for rows, columns in inside.values():
        yield Matrices(rows, columns, layers)
    yield Matrices(shape.vocab, shape.hidden, 1 if shape.tied else 2)


def _moved(rates: Rates, total: float, num_bytes: float) -> float:
    return total / (by_size(rates.elementwise, num_bytes) if rates.on_measured_cpu else rates.bandwidth)
