"""Seconds of one optimizer step: estimate.py adds up what the other modules say of each cause."""

from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.cost.flops import hardware_flops, model_flops

__all__ = ["estimate_time", "hardware_flops", "model_flops"]
