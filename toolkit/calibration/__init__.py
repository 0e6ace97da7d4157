"""WHAT THIS MACHINE DOES: measured rates, which the planner prefers to a datasheet's."""
