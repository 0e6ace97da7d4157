"""The processes of the lessons: started once, and no failure hides, hangs or spoils what comes after it."""

import multiprocessing
import time
from collections.abc import Iterator

import pytest

from procs import warm_processes
from ranks import misbehaving_lessons as lessons
from toolkit.errors import RankFailed
from toolkit.lessons.pool import RankPool

pytestmark = pytest.mark.ranks


@pytest.fixture
def pool() -> Iterator[RankPool]:
    warm_processes()
    with RankPool(2, timeout_s=20) as made:
        yield made


def test_the_same_processes_run_one_lesson_after_the_other(pool: RankPool) -> None:
    first, second = pool.run(lessons.pass_on, scale=3.0), pool.run(lessons.pass_on, scale=5.0)
    assert [said for _, said in first] == [3.0, 0.0]
    assert [said for _, said in second] == [5.0, 0.0]
    assert [pid for pid, _ in first] == [pid for pid, _ in second]
    assert pool.run(lessons.pass_on, on=1, scale=2.0) == [(first[0][0], 0.0)]


def test_the_failing_ranks_traceback_is_shown_and_the_next_lesson_runs(pool: RankPool) -> None:
    with pytest.raises(RankFailed) as failure:
        pool.run(lessons.one_raises)
    text = str(failure.value)
    assert text.startswith("rank 1 failed:\nTraceback")
    assert "in one_raises" in text
    assert "ValueError: layer 3 is not divisible" in text
    assert "[one_raises on 2 ranks]" in text
    assert multiprocessing.active_children() == []
    assert [said for _, said in pool.run(lessons.pass_on, scale=1.0)] == [1.0, 0.0]


def test_a_hang_is_bounded_and_shows_where() -> None:
    warm_processes()
    started = time.monotonic()
    with RankPool(2, timeout_s=1) as pool, pytest.raises(RankFailed) as failure:
        pool.run(lessons.one_waits)
    assert time.monotonic() - started < 15
    assert "rank 0 hung:" in str(failure.value)
    assert "in one_waits" in str(failure.value)
    assert "rank 1" not in str(failure.value)


def test_a_rank_that_dies_is_named(pool: RankPool) -> None:
    with pytest.raises(RankFailed, match="rank 1 died with exit code 9"):
        pool.run(lessons.one_dies)


def test_a_pool_can_be_left_in_the_middle(pool: RankPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RankPool, "_collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.run(lessons.one_sleeps)
    monkeypatch.undo()
    assert [said for _, said in pool.run(lessons.pass_on, scale=1.0)] == [1.0, 0.0]


def test_what_cannot_be_run_is_told_at_once() -> None:
    pool = RankPool(2)
    with pytest.raises(RankFailed, match="on 3 ranks, the pool has 2"):
        pool.run(lessons.pass_on, on=3, scale=1.0)

    def of_a_cell() -> None: ...

    of_a_cell.__module__ = "__main__"
    with pytest.raises(RankFailed, match=r"of_a_cell .* write it into a \.py file"):
        pool.run(of_a_cell)
    assert multiprocessing.active_children() == []
