"""Parallel training from first principles, to be read and run: notebooks/04_parallelism.ipynb goes through it."""
