"""What `toolkit top` shows, and that it ends."""

import io
import json

import pytest
from rich.console import Console

from toolkit.__main__ import main
from toolkit.monitor.state import Watched
from toolkit.monitor.top import screen, show_top
from unit.monitor.conftest import MakeRun, add, told


def text_of(watched: Watched, *, most: int | None = None, width: int = 130) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(screen(watched.look(), most_ranks=most))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_everything_is_on_it(run: MakeRun) -> None:
    folder = run()
    add(
        folder.events,
        {
            "event": "straggler",
            "step": 90,
            "rank": 1,
            "host": "south",
            "section": "forward",
            "share": 0.25,
            "time": 1.0,
        },
    )
    text = text_of(Watched(folder.path))
    for word in ("run-1", "training", "step 93 of 100", "loss 2.5000", "5,000 tokens/s", "checkpoint 50", "2.0 GiB"):
        assert word in text
    lines = text.splitlines()
    (north,) = [line for line in lines if "north" in line]
    (south,) = [line for line in lines if "south" in line and "SLOW: forward" in line]
    assert "160 ms" in north
    assert "190 ms" in south
    assert "19.1 MiB/s" in north
    # A step of 24 letters: 10 ms of rows, 100 ms forward, 50 ms backward, the rest waiting.
    assert [north.count(sign) for sign in "█░"] == [19, 5]
    assert "slow: rank 1 on south, forward, 25% of a step" in text


def test_of_many_ranks_the_slow_and_the_busiest_are_shown(run: MakeRun) -> None:
    folder = run(living=False)
    add(folder.ranks, {"step": 92, "hosts": [f"h{rank}" for rank in range(100)], "stages": [0] * 100})
    add(folder.ranks, told(92, [0.01 * (rank % 7) for rank in range(99)] + [0.001], at=1.0))
    add(folder.events, {"event": "straggler", "step": 90, "rank": 99, "section": "data", "time": 1.0})
    lines = text_of(Watched(folder.path), most=5).splitlines()
    assert [line.split()[1] for line in lines if " h" in line and "host" not in line] == ["6", "13", "20", "27", "99"]
    assert any("and 95 ranks that are less busy" in line for line in lines)


def test_a_run_that_has_not_begun_and_letters_that_a_terminal_obeys(run: MakeRun) -> None:
    folder = run(living=False)
    for path in (folder.telemetry, folder.ranks, folder.events):
        path.unlink()
    assert "not started" in text_of(Watched(folder.path))
    add(folder.ranks, {"step": 0, "hosts": ["\x1b[2Jhost"], "stages": [0]})
    add(folder.events, {"event": "x\x1b]0;title\x07", "step": 1})
    assert "\x1b" not in text_of(Watched(folder.path))


def test_where_nobody_looks_it_is_printed_once(run: MakeRun) -> None:
    console = Console(width=100, file=io.StringIO())
    show_top(Watched(run().path), console, every_seconds=60.0, once=False)
    assert console.file.getvalue().count("toolkit top") == 1  # type: ignore[attr-defined]


def test_on_a_terminal_it_is_drawn_until_control_c(run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, looks = run(), []

    def slept(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.monitor.top.time.sleep", slept)
    console = Console(width=100, height=30, file=io.StringIO(), force_terminal=True)
    show_top(Watched(folder.path), console, every_seconds=0.5, once=False)
    assert looks == [0.5] * 3


def test_the_command(run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["toolkit", "top", str(run().path), "--once"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "step 93 of 100" in capsys.readouterr().out


def test_json_lines_are_what_training_writes() -> None:
    # The columns of the fixture are those of the code that writes them; the desk may not import it.
    from toolkit.training.own_time import COLUMNS

    assert set(COLUMNS) == set(json.loads(json.dumps(told(1, [0.1], at=0.0)))) - {"step", "time"}


def test_shares_that_go_by_speed_are_on_it(run: MakeRun) -> None:
    folder = run()
    assert "micro-batches" not in text_of(Watched(folder.path))
    add(folder.ranks, {**told(98, [0.1, 0.1], at=2.0), "micro_batches": [5, 3]})
    lines = text_of(Watched(folder.path)).splitlines()
    header, north, south = (next(line.split() for line in lines if word in line) for word in ("host", "north", "south"))
    place = header.index("micro-batches")
    assert (north[place], south[place]) == ("5", "3")
