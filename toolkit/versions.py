"""Releases of the libraries that decide a run's numbers."""

import contextlib
import hashlib
import importlib.metadata
import platform
import sys

import toolkit

PACKAGES = ("torch", "deepspeed", "transformers", "accelerate", "peft", "datasets")
EXTRAS = ("megatron-core",)
"""Told where they are installed."""


def installed_versions() -> dict[str, str]:
    """Release of the toolkit, of Python and of each library in this environment, by name."""
    own = {"toolkit": toolkit.__version__, "python": platform.python_version()}
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return own | found


def ops_folder_name(*, torch: str, deepspeed: str) -> str:
    """Name of the folder in which this environment keeps the ops that DeepSpeed has compiled, by release."""
    # torch's own default knows the Python version only: after an upgrade of torch it loads what the old one has built.
    releases = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch}-ds{deepspeed}"
    # Its headers' place is part of every compiler's command: two environments would undo each other's builds.
    place = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return f"toolkit-{releases}-{place}"
