"""Releases of the libraries that decide a run's numbers."""

import importlib.metadata
import platform

import toolkit

PACKAGES = ("torch", "deepspeed", "transformers", "accelerate", "peft", "datasets")


def installed_versions() -> dict[str, str]:
    """Release of the toolkit, of Python and of each library in this environment, by name."""
    own = {"toolkit": toolkit.__version__, "python": platform.python_version()}
    return own | {name: importlib.metadata.version(name) for name in PACKAGES}
