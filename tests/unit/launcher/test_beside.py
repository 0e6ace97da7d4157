"""Processes beside this one: the first that fails ends the others, and what it said is told."""

import os
import sys
import time

from toolkit.launcher.beside import beside

ENVIRONMENT = dict(os.environ)


def python(text: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-c", text], ENVIRONMENT


def test_all_end_well() -> None:
    assert beside([python("print(1)"), python("")], seconds=30) == [None, None]


def test_the_last_line_of_what_failed_is_told_and_the_others_are_ended() -> None:
    started = time.monotonic()
    found = beside(
        [python("import time; time.sleep(60)"), python("raise SystemExit('first\\nlast words')")], seconds=60
    )
    assert found == [None, "last words"]
    assert time.monotonic() - started < 30


def test_a_silent_end_is_told_by_its_code() -> None:
    assert beside([python("raise SystemExit(9)")], seconds=30) == ["exit code 9"]


def test_the_time_is_bounded() -> None:
    assert beside([python("import time; time.sleep(60)")], seconds=0.5) == ["not done after 0.5 s"]
