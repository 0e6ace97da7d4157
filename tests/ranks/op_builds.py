"""What a process does that loads a DeepSpeed op where a killed build has left its mark."""

import fcntl
import os
from pathlib import Path
from unittest import mock

from toolkit.engines.ds import ops


def mark_is_there_while_loading(folder: Path, another_loads: bool) -> bool:
    """Load an op that only looks for torch's mark.

    Args:
        folder: where ops are built.
        another_loads: a second process is at it at the same time.
    """
    mark = folder / "some_op" / "lock"
    mark.parent.mkdir(parents=True)
    mark.touch()
    seen = []
    builder = mock.Mock(load=lambda verbose: seen.append(mark.exists()))
    builder.name = "some_op"
    accelerator = mock.Mock(**{"create_op_builder.return_value": builder})
    with (
        mock.patch.dict(os.environ, {"TORCH_EXTENSIONS_DIR": str(folder)}),
        mock.patch.object(ops, "get_accelerator", return_value=accelerator),
        (folder / "loading").open("w") as other,
    ):
        if another_loads:
            fcntl.flock(other, fcntl.LOCK_SH)
        ops.load_op("SomeOpBuilder")
    (result,) = seen
    return result


def build_without_compiler(folder: Path) -> str:
    """What the user is told."""
    with mock.patch.dict(os.environ, {"TORCH_EXTENSIONS_DIR": str(folder), "CXX": "no-such-compiler"}):
        try:
            ops.load_op("ShareMemCommBuilder")
        except ops.BUILD_FAILURES as error:
            return str(error)
    return "built"
