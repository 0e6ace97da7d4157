"""Starts processes, and starts them again: a run through `accelerate launch`, ranks that measure directly.

The only part that may use subprocess.
"""

from toolkit.launcher.ranks import run_ranks
from toolkit.launcher.run import launch

__all__ = ["launch", "run_ranks"]
