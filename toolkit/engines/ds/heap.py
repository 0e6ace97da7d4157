"""The C library's memory, where it holds on to what was freed."""

import contextlib
import ctypes


def give_back_freed_memory() -> None:
    """Return to the system what glibc keeps of freed tensors; nothing happens with another C library."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
