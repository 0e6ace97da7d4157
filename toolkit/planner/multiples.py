"""Numbers that divide others, and the words in which a message names those that work."""

import functools
import math
from collections.abc import Sequence

MAX_VALUES = 4
"""Values that work, of a long list: the nearest."""


def divisors(number: int) -> list[int]:
    """Divisors in ascending order."""
    return list(_divisors(number))


@functools.lru_cache(maxsize=4096)
def _divisors(number: int) -> tuple[int, ...]:
    """The search asks for the same few numbers ten thousand times."""
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return tuple(sorted({*small, *(number // i for i in small)}))


def nearest(number: int, step: int) -> str:
    """The multiples of `step` on both sides of `number`, in words."""
    below = number // step * step
    return choice([n for n in (below, below + step) if n > 0])


def choice(values: Sequence[object]) -> str:
    """'1, 2, 4 or 8'."""
    words = [str(value) for value in values]
    return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def close_choice(values: Sequence[int], given: int) -> str:
    """`choice` of the values that lie nearest to what was given."""
    return choice(sorted(sorted(values, key=lambda one: abs(one - given))[:MAX_VALUES]))


def batch_words(batch: int, replicas: int, micro: int | None, *, unit: str) -> str:
    """That a global batch does not divide over the replicas, and what would: cheapest first, another micro-batch."""
    unit += "s" if replicas > 1 else ""
    if micro is None:
        return f"global_batch={batch} is not a multiple of {replicas} {unit}; use {nearest(batch, replicas)}"
    needs = f"global_batch={batch} is not a multiple of {replicas} {unit} x micro_batch={micro}"
    larger = f"global_batch={nearest(batch, replicas * micro)}"
    if batch % replicas:
        return f"{needs}; use {larger}"
    return f"{needs}; use micro_batch={close_choice(divisors(batch // replicas), micro)}, or {larger}"
