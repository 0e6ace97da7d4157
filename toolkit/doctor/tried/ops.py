"""Imports what a run imports, and compiles and loads DeepSpeed's ops as a run does, into the same folder.

`python -m toolkit.doctor.tried.ops FILE NAME...`: NAMEs are modules to import, or builders of ops.
"""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from toolkit.doctor.tried.teller import Teller, words_of
from toolkit.engines.ds.ops import BUILD_FAILURES, load_op
from toolkit.errors import BROKEN_LIBRARY


def main(arguments: Sequence[str]) -> None:
    """Tell of each name how long it took, or why it failed."""
    teller = Teller(Path(arguments[0]))
    for name in arguments[1:]:
        teller.begin(name)
        began = time.monotonic()
        try:
            if name.endswith("Builder"):
                load_op(name)
            else:
                importlib.import_module(name)
        except (*BUILD_FAILURES, *BROKEN_LIBRARY) as error:
            teller.tell(name, {"error": words_of(error)})
        else:
            teller.tell(name, {"seconds": round(time.monotonic() - began, 3)})
    teller.end()


if __name__ == "__main__":
    main(sys.argv[1:])
