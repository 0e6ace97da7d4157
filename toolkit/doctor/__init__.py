"""What this machine can run, what is in the way, and the command that mends it.

Each probe is a small function from what was read to facts and findings; what reads a file or starts a program is
apart from what understands it. Nothing here imports a training library: `tried/` does, in processes of its own.
"""
