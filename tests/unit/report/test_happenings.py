"""What happened in a run: every event at its step, in words."""

from typing import Any

import pytest

from toolkit.report.happenings import LANES, Happening, happenings
from toolkit.report.record import read_records
from unit.report.conftest import MakeRun, step_lines


def marks(make_run: MakeRun, *events: dict[str, Any], **files: Any) -> tuple[Happening, ...]:
    (record,) = read_records([make_run("run", events=list(events), **files)])
    return happenings(record)


def test_a_restart_is_where_the_next_start_goes_on(make_run: MakeRun) -> None:
    found = marks(
        make_run,
        {"event": "started", "step": 0, "num_steps": 1200, "time": 100.0},
        {"event": "checkpoint", "step": 80, "stall_seconds": 0.25, "num_bytes": 2**20},
        {"event": "restarted", "reason": "rank 1 stood still"},
        {"event": "started", "step": 80, "num_steps": 1200},
        {"event": "restarted", "reason": "again"},
    )
    assert [(mark.step, mark.lane, mark.weight) for mark in found] == [
        (0, "started", "quiet"),
        (80, "checkpoint", "quiet"),
        (80, "interrupted", "bad"),
        (80, "started", "notable"),
        (80, "interrupted", "bad"),
    ]
    assert [mark.words for mark in found] == [
        "started of 1,200 steps",
        "checkpoint, 1.0 MiB of rank 0, training stood still for 250 ms",
        "interrupted, started again: rank 1 stood still",
        "went on after step 80 of 1,200 steps",
        "interrupted, started again: again",
    ]


@pytest.mark.parametrize(
    ("event", "lane", "words"),
    [
        ({"event": "evaluation", "held_out_loss": 2.5, "exact_match": None}, "evaluation", "held-out loss 2.5"),
        ({"event": "bad step", "reason": "loss 9", "rows": [1]}, "bad step", "bad step: loss 9"),
        ({"event": "rolled back", "left_out": [2]}, "bad step", "went back to step 7"),
        ({"event": "rate lowered", "factor": 0.5}, "rate", "lowered to 0.5 of the schedule's"),
        ({"event": "checkpoint failed", "reason": "no room"}, "interrupted", "not written: no room"),
        ({"event": "preempted", "signal": "SIGTERM"}, "interrupted", "asked to leave, saved: SIGTERM"),
        ({"event": "stopped early", "reason": "no better"}, "interrupted", "no better"),
        ({"event": "best weights", "held_out_loss": 1.5}, "evaluation", "held-out loss 1.5000"),
        ({"event": "of a later release", "speed": 3}, "other", "of a later release: speed 3"),
        ({"event": None, "deep": [[[]]]}, "other", "event"),
        ({"event": "preempted", "signal": "\x1b[2J hf_0123456789abcdefg"}, "interrupted", "saved: \ufffd[2J hf_***"),
        ({"event": "bad step", "reason": "x" * 10_000}, "bad step", "x…"),
        ({"event": "checkpoint", "num_bytes": "many", "stall_seconds": float("nan")}, "checkpoint", "checkpoint"),
        ({"event": "checkpoint", "num_bytes": 10**400, "stall_seconds": float("inf")}, "checkpoint", "checkpoint"),
        ({"event": "evaluation", "held_out_loss": float("inf"), "perplexity": []}, "evaluation", "evaluation"),
    ],
)
def test_every_kind_in_words(make_run: MakeRun, event: dict[str, Any], lane: str, words: str) -> None:
    (mark,) = marks(make_run, {"step": 7, **event})
    assert (mark.step, mark.lane) == (7, lane)
    assert mark.lane in LANES
    assert words in mark.words
    assert len(mark.words) < 320


def test_steps_tell_what_no_event_does(make_run: MakeRun) -> None:
    def loss(number: int) -> float | None:
        return None if number in (2, 4) else 1.0

    steps = step_lines(4, loss=loss, skipped=lambda number: number == 3, loss_scale=512.0)
    found = marks(make_run, {"event": "bad step", "step": 4, "reason": "the loss is nan"}, steps=steps)
    assert [(mark.step, mark.words) for mark in found] == [
        (2, "the loss is no number"),
        (3, "update left out: gradients overflowed; the loss scale is now 512"),
        (4, "bad step: the loss is nan"),
    ]


def test_events_without_a_step_that_is_one(make_run: MakeRun) -> None:
    odd = [{"event": "bad step", "step": step} for step in (5, None, -3, True, "x", 2.5, [6], {})]
    assert [mark.step for mark in marks(make_run, *odd)] == [5] * 8


def test_slow_ranks_and_links_and_splits_are_told(make_run: MakeRun) -> None:
    slow = {"event": "straggler", "step": 40, "rank": 2, "host": "north", "section": "data", "share": 0.31}
    found = marks(
        make_run,
        slow,
        {**slow, "section": "link", "host": "north and south", "share": None},
        {"event": "straggler over", "step": 80, "rank": 2, "host": "north"},
        {"event": "stage split", "step": 90, "stages": [5, 3], "gain": 0.18},
        {"event": "shares", "step": 95, "micro_batches": [6, 2], "before": [4, 4], "gain": 0.31},
    )
    assert [(mark.words, mark.weight) for mark in found] == [
        ("slow: rank 2 on north, data, 31% of a step", "bad"),
        ("slow: north and south, link", "bad"),
        ("no longer slow: rank 2", "notable"),
        ("stages of 5,3 layers would be faster, by 18%", "notable"),
        ("micro-batches in proportion to speed: 6 + 2, 31% faster expected", "notable"),
    ]
