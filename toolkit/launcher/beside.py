"""Processes beside this one that are waited for, and what the first of them that fails has said."""

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

_POLL_SECONDS = 0.05


def beside(commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], *, seconds: float) -> list[str | None]:
    """Run all of them at once; when one fails, or the time is over, the others are ended.

    Args:
        commands: words and environment of each.
        seconds: for all of them.

    Returns:
        Of each the last line that it said, if it failed; None if it ended well or was ended.
    """
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")) for _ in commands]
        started = [
            subprocess.Popen(words, env=dict(environment), stdout=file, stderr=file)
            for (words, environment), file in zip(commands, said, strict=True)
        ]
        try:
            late = not _wait(started, seconds)
            codes = [process.poll() for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
        faults: list[str | None] = []
        for code, file in zip(codes, said, strict=True):
            file.seek(0)
            lines = [line.strip() for line in file if line.strip()]
            last = lines[-1] if lines else f"exit code {code}"
            faults.append(f"not done after {seconds:g} s" if code is None and late else last if code else None)
        return faults


def _wait(started: Sequence["subprocess.Popen[bytes]"], seconds: float) -> bool:
    """Until all have ended or one has failed; False when the time is over."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in started):
        if any(process.poll() for process in started):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
