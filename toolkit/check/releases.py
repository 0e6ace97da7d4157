"""Releases of a library, compared as numbers; which one a file is checked for."""

import importlib.metadata
import re
from typing import NamedTuple

from typing_extensions import Self

from toolkit.errors import SpecError

TESTED_DEEPSPEED = "0.19.8"
"""The tables of this package were read off this release; it counts where DeepSpeed is not installed."""


class Release(NamedTuple):
    """Its first three numbers."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From '0.19.8', '0.19' or '0.19.8+cu128'.

        Raises:
            SpecError: it does not begin with two numbers.
        """
        found = re.match(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text)
        if found is None:
            raise SpecError(f"{text!r} is no release; write its numbers, as 0.19.8")
        return cls(int(found[1]), int(found[2]), int(found[3] or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def deepspeed_release(given: str | None) -> Release:
    """The release that is given, else the installed one, else the tested one; nothing of it is imported.

    Raises:
        SpecError: what is given is no release.
    """
    if given is not None:
        return Release.parse(given)
    try:
        return Release.parse(importlib.metadata.version("deepspeed"))
    except importlib.metadata.PackageNotFoundError:
        return Release.parse(TESTED_DEEPSPEED)
