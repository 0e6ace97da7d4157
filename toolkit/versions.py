"""Releases of the libraries that decide a run's numbers."""

import contextlib
import importlib.metadata
import platform

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
