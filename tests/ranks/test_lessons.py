"""What the lessons show: every way of dividing work gives one process's numbers, for as many bytes as the formulas say.

All in fp32; its rounding is 6e-8 of a number, and sums of some ten numbers come within 1e-6 of each other.
"""

from collections.abc import Callable, Iterator

import pytest

from procs import warm_processes
from toolkit.lessons import (
    accumulation,
    collectives,
    compression,
    data_parallel,
    federated,
    matrix_product,
    pipeline,
    schedules,
    sequence,
    staleness,
    tensor_parallel,
    zero,
)
from toolkit.lessons.pool import RankPool
from toolkit.lessons.two_layers import Descent

pytestmark = pytest.mark.ranks

ROUNDING = 1e-6
RANKS = 4


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    warm_processes()
    with RankPool(RANKS, timeout_s=120) as made:
        yield made


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_all_reduce(pool: RankPool, world_size: int) -> None:
    numbers = 12 * 7  # every number of ranks here divides it
    found = pool.run(collectives.compare, on=world_size, numbers=numbers)
    for way in ("gather_and_broadcast", "ring_all_reduce"):
        assert max(one[way].difference for one in found) < ROUNDING
        assert len({one[way].checksum for one in found}) == 1
        expected = [
            collectives.predicted_bytes(way, 4 * numbers, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert [one[way].sent_bytes for one in found] == (expected if world_size > 1 else [0])


def test_all_reduce_of_what_no_two_ranks_share_evenly(pool: RankPool) -> None:
    for numbers in (1, 3, 1001):
        found = [one["ring_all_reduce"] for one in pool.run(collectives.compare, numbers=numbers)]
        assert max(one.difference for one in found) < ROUNDING
        assert sum(one.sent_bytes for one in found) == 2 * (RANKS - 1) * 4 * numbers


def test_the_ring_step_by_step(pool: RankPool) -> None:
    seen = pool.run(collectives.watch_ring)
    for rank, steps in enumerate(seen):
        assert steps[0] == [10**rank] * RANKS
        assert [chunk for chunk, number in enumerate(steps[RANKS - 1]) if number == 1111] == [rank]
        assert steps[-1] == [1111] * RANKS


def test_products(pool: RankPool) -> None:
    found = pool.run(matrix_product.compare, rows=30, inputs=24, outputs=18)
    for way in found[0]:
        # Sums of 24 products of numbers up to 3.
        assert max(one[way].difference for one in found) < 1e-5, way
    assert [one["rows of W"].sent_bytes for one in found] == [2 * 3 / 4 * 4 * 30 * 18] * RANKS
    assert [one["layers"].sent_bytes for one in found] == [4 * 30 * 24] * 3 + [0]
    assert not any(one[way].sent_bytes for one in found for way in ("rows of X", "columns of W"))


@pytest.mark.parametrize("train", [data_parallel.data_parallel, tensor_parallel.tensor_parallel])
def test_gradient_descent(pool: RankPool, train: Callable[..., Descent]) -> None:
    for one in pool.run(train, steps=15):
        assert one.losses == pytest.approx(one.alone, abs=ROUNDING)
        assert one.difference < ROUNDING
        assert one.losses[-1] < one.losses[0] / 5


@pytest.mark.parametrize("schedule", list(schedules.SCHEDULES))
@pytest.mark.parametrize("num_micro", [1, 3, 8])
def test_pipeline(pool: RankPool, schedule: str, num_micro: int) -> None:
    stages = pool.run(pipeline.pipelined, schedule=schedule, num_micro=num_micro, steps=4)
    assert max(one.difference for one in stages) < ROUNDING
    assert stages[-1].losses == pytest.approx(stages[-1].alone, abs=ROUNDING)
    ahead = [RANKS - rank if schedule == "1F1B" else num_micro for rank in range(RANKS)]
    assert [one.most_kept for one in stages] == [min(one, num_micro) for one in ahead]
    message = 4 * 48 * 16
    assert [one.sent_bytes for one in stages] == [message, 2 * message, 2 * message, message]


def test_micro_batches_fill_the_bubble(pool: RankPool) -> None:
    def idle(num_micro: int) -> float:
        stages = pool.run(pipeline.pipelined, num_micro=num_micro, device_seconds=0.01)
        return schedules.idle_part([one.spans for one in stages])

    # Waiting for a busy machine adds to it, and nothing takes from it.
    assert idle(1) > 0.74 > 0.65 > idle(8) > 0.26


def test_zero(pool: RankPool) -> None:
    numbers = 16 * 32 + 32 * 8
    for one in pool.run(zero.compare, steps=6):
        whole, part = one["all on every rank"], one["a part on each"]
        # Adam divides by the gradient's own size: roundings of small gradients become steps.
        assert max(whole.difference, part.difference) < 1e-5
        assert (whole.state_bytes, part.state_bytes) == (8 * numbers, 8 * numbers / RANKS)
        assert whole.sent_bytes == part.sent_bytes == 6 * 2 * 3 / 4 * 4 * numbers


def test_long_sequences(pool: RankPool) -> None:
    # 50 tokens: no two ranks share them evenly.
    for one in pool.run(sequence.compare, heads=4, tokens=50, size=8):
        assert max(one["context_parallel"].difference, one["ulysses"].difference) < ROUNDING
        assert one["ulysses"].sent_bytes < one["context_parallel"].sent_bytes


def test_unequal_micro_batches(pool: RankPool) -> None:
    for one in pool.run(accumulation.compare, steps=20):
        trap, right = one["mean_of_means"], one["sum_over_count"]
        assert right.error < ROUNDING
        assert trap.error > 0.5
        assert right.losses[-1] < trap.losses[-1] / 2
        weights = [weight for counts in trap.token_weights for weight in counts]
        counts = [count for counts in accumulation.TOKENS for count in counts]
        assert sum(count * weight for count, weight in zip(counts, weights, strict=True)) == pytest.approx(sum(counts))


def test_compression(pool: RankPool) -> None:
    ranks, size = pool.run(compression.compare, on=2, steps=40, size=64), 64
    sent = {name: run.sent_bytes for name, run in ranks[0].items()}
    last = {name: run.losses[-1] for name, run in ranks[0].items()}
    assert sent["all of it"] == 2 * 1 / 2 * 4 * size * size
    for way, expected in (("top 1 in 32", 8 * size * size / 32), ("rank 2", 2 * 1 / 2 * 4 * 2 * 2 * size)):
        kept, dropped = f"{way}, error feedback", f"{way}, the rest dropped"
        assert sent[kept] == sent[dropped] == expected
        assert last["all of it"] < last[kept] < last[dropped] / 2
    assert all(one["rank 2, error feedback"].losses == ranks[0]["rank 2, error feedback"].losses for one in ranks)


def test_old_gradients(pool: RankPool) -> None:
    delays = [0, 1, 2, 4]
    borders = [staleness.largest_stable_rate(1.0, delay) for delay in delays]
    rates = sorted([0.2, *(factor * border for border in borders for factor in (0.75, 1.5))])
    found = pool.run(staleness.late, delays=delays, rates=rates, updates=80)[0]
    for one, border in zip(found, borders, strict=True):
        grown = dict(zip(one.rates, one.distances, strict=True))
        assert grown[0.75 * border][-1] < 0.5
        assert grown[1.5 * border][-1] > 2
        assert len(grown[0.2]) == 81 - one.delay
    worst = [max(one.distances[rates.index(0.75 * borders[1])]) for one in found]
    assert worst == sorted(worst)


def test_a_slow_worker_stops_the_others_only_if_they_are_waited_for(pool: RankPool) -> None:
    seconds = [0.002, 0.002, 0.02]
    waiting = pool.run(staleness.race, kind="synchronous", updates=8, device_seconds=seconds)
    assert [len(one.busy) for one in waiting] == [0, 8, 8, 8]
    assert waiting[0].staleness == [0] * 8
    going = pool.run(staleness.race, kind="asynchronous", updates=60, device_seconds=seconds)
    assert len(going[0].staleness) == 60
    assert sum(len(one.busy) for one in going) == 63  # the last of each worker comes too late to count
    assert min(len(one.busy) for one in going[1:3]) > len(going[3].busy)
    assert max(going[0].staleness) >= 2
    assert going[0].distances[-1] < going[0].distances[0]


def test_federated_averaging(pool: RankPool) -> None:
    def rounds(num_steps: int, drift: float) -> federated.Averaged:
        return pool.run(federated.average, num_steps=num_steps, drift=drift, rounds=40)[0]

    alike = {num_steps: rounds(num_steps, 0.0) for num_steps in (1, 16)}
    apart = {num_steps: rounds(num_steps, 1.0) for num_steps in (1, 4, 16)}
    # With one step it is gradient descent on all rows.
    assert max(alike[1].difference, apart[1].difference) < ROUNDING
    assert alike[16].distances[5] < 0.05 * alike[1].distances[5]
    # Workers that have rows of their own go to optima of their own, the further the more steps they take.
    assert apart[1].distances[-1] < apart[4].distances[-1] < apart[16].distances[-1]
    assert apart[16].distances[-1] > 50 * alike[16].distances[-1]
