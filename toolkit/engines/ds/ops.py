"""DeepSpeed's C++ ops: compiled on first use into a folder of their own.

torch marks a running build with a file, which stays behind when the process is killed; every later load then waits for
it, silently and for ever (torch/utils/file_baton.py). Here every process that loads holds the kernel's lock meanwhile,
shared with others, and that lock dies with its process: a mark found when nobody holds it is nobody's and goes.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder.builder import CUDAMismatchException
from torch.utils.cpp_extension import get_default_build_root

from toolkit.versions import ops_folder_name

BUILD_FAILURES = (CUDAMismatchException, RuntimeError, ImportError, OSError, ValueError)
"""What `load_op` raises where the machine cannot build the op."""


def load_op(builder_name: str) -> None:
    """Compile one of DeepSpeed's ops if nobody has yet (up to a minute) and load it into this process.

    Args:
        builder_name: class name of the builder, as `CPUAdamBuilder`.

    Raises:
        RuntimeError: and others of BUILD_FAILURES: no compiler, no ninja, no such op for this device.
    """
    builder = get_accelerator().create_op_builder(builder_name)
    if builder is None:
        raise RuntimeError(f"DeepSpeed {deepspeed.__version__} has no {builder_name} for this device")
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_default_folder())))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "loading").open("w") as lock:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / builder.name / "lock").unlink(missing_ok=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with _own_ninja():
            builder.load(verbose=False)


@contextlib.contextmanager
def _own_ninja() -> Iterator[None]:
    """The one that is installed beside this Python, whether or not its environment is activated.

    Releases of ninja do not recognise each other's builds: with the system's in turn, every op is compiled each time.
    """
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _default_folder() -> Path:
    name = ops_folder_name(torch=torch.__version__, deepspeed=deepspeed.__version__)
    return Path(get_default_build_root()) / name
