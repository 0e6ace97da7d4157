"""Bytes of a set-up: on the device by instant and stage, on the host, on disk."""

from toolkit.planner.memory.estimate import HEADROOM, estimate_memory

__all__ = ["HEADROOM", "estimate_memory"]
