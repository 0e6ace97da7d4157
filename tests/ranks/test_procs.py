"""The runner of the tests on several ranks: results come back, and no failure hides or hangs."""

import multiprocessing
import time

import pytest

from procs import run_ranks
from ranks import misbehaving

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """The imports of the first start are none of these tests' time."""
    run_ranks(misbehaving.add_up, 1, 1.0)


def test_each_rank_returns_its_own() -> None:
    assert run_ranks(misbehaving.add_up, 4, 2.0) == [20.0, 21.0, 22.0, 23.0]


def test_a_group_may_end_before_its_body() -> None:
    first, second = run_ranks(misbehaving.leave_alone, 2)
    assert first != second


def test_the_failing_ranks_traceback_is_shown() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError) as failure:
        run_ranks(misbehaving.one_raises, 3, timeout_s=60)
    text = str(failure.value)
    assert text.startswith("rank 1 failed:\nTraceback")
    assert "in one_raises" in text
    assert "ValueError: layer 3 is not divisible" in text
    assert time.monotonic() - started < 20


def test_a_hang_is_bounded_and_shows_where() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError) as failure:
        run_ranks(misbehaving.one_sleeps, 2, timeout_s=3)
    assert time.monotonic() - started < 20
    text = str(failure.value)
    assert "rank 0 hung:" in text
    assert "in one_sleeps" in text


def test_a_rank_that_dies_is_named() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 1 died with exit code 9"):
        run_ranks(misbehaving.one_dies, 3, timeout_s=60)
    assert time.monotonic() - started < 20


def test_nothing_is_left_running() -> None:
    with pytest.raises(AssertionError):
        run_ranks(misbehaving.one_raises, 3)
    assert multiprocessing.active_children() == []
