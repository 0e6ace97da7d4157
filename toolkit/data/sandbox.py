"""Bounds for a chat template: it is a program, and comes with a tokenizer from anywhere.

transformers renders it in Jinja's ImmutableSandboxedEnvironment, where it reaches nothing of Python's and changes
nothing. How long it runs and how much it takes is bounded only here.
"""

import contextlib
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

MAX_SECONDS = 5.0
"""Processor time of one rendering; conversations of a thousand turns take a hundredth of a second."""
MAX_BYTES = 1024**3
"""Memory that one rendering may add."""

_STATM = Path("/proc/self/statm")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A block that ends by itself; in other threads than the main one only its memory is bounded.

    Raises:
        TimeoutError: the block ran for too long.
        MemoryError: it wanted too much.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        allowed = [used + MAX_BYTES, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(allowed), before[1]))
    try:
        with _timed():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only.
        return

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"it runs for more than {MAX_SECONDS:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again and again: Jinja computes constant parts of a template in advance and takes no exception from there.
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS, MAX_SECONDS / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
