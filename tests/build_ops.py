"""Compiles DeepSpeed's CPU ops before the tests that need them: `make test` runs it beside those of one process.

What does not build here is left to the test that needs it, which says why or skips.
"""

import contextlib

from toolkit.engines.ds.ops import BUILD_FAILURES, load_op

if __name__ == "__main__":
    for builder in ("ShareMemCommBuilder", "CPUAdamBuilder"):
        with contextlib.suppress(*BUILD_FAILURES):
            load_op(builder)
