"""What errors of libraries mean, and what to do about them: a table by their words."""

import re
from typing import NamedTuple


class Explanation(NamedTuple):
    """Of one kind of error."""

    meaning: str
    remedy: str = ""
    command: str = ""


_REINSTALL = "pip install --force-reinstall -c constraints.txt -e '.[train]'"

# The first that matches counts: the particular before the general.
_TABLE: tuple[tuple[str, Explanation], ...] = (
    # CUDA, in the words of torch and of the driver's own library.
    (
        r"Error 802|system not yet initialized",
        Explanation(
            "GPUs behind NVSwitch wait for the fabric manager",
            "start the service; its release must be the driver's",
            "sudo systemctl enable --now nvidia-fabricmanager",
        ),
    ),
    (
        r"Error 80[34]|forward compatibility was attempted|system has unsupported display driver",
        Explanation(
            "the driver in the kernel and the driver's library are of different releases",
            "reboot after an update; in a container take the image's `compat` folder out of LD_LIBRARY_PATH",
        ),
    ),
    (
        r"driver on your system is too old|CUDA driver version is insufficient",
        Explanation(
            "torch was built for a newer CUDA than the driver knows",
            "update the driver, or install a torch for the CUDA that `nvidia-smi` shows",
        ),
    ),
    (
        r"no kernel image is available|is not compatible with the current PyTorch installation",
        Explanation(
            "this torch holds no code for this GPU's compute capability",
            "install a torch that does: a newer one for new GPUs, an older one for Pascal and before",
        ),
    ),
    (
        r"Error 999|CUDA unknown error",
        Explanation(
            "the driver has lost its unified-memory module, as after a suspend",
            command="sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm",
        ),
    ),
    (
        r"Error 46|busy or unavailable",
        Explanation("another process has the GPU for itself", "end that process; `nvidia-smi` names it"),
    ),
    (
        r"Error 10[01]|no CUDA-capable device|invalid device ordinal",
        Explanation(
            "CUDA sees none of the GPUs, or not the one asked for",
            "look at CUDA_VISIBLE_DEVICES; a container needs `docker run --gpus all`",
        ),
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|out of memory",
        Explanation("another process holds the GPU's memory", "end it; `nvidia-smi` names it"),
    ),
    (
        r"uncorrectable ECC|Error 214",
        Explanation("the GPU's memory is damaged", "reset the GPU", "sudo nvidia-smi --gpu-reset"),
    ),
    # Shared libraries.
    (
        r"GLIBC_2\.\d+' not found",
        Explanation("the wheel was made for a newer system", "use a newer system, or a container on one"),
    ),
    (
        r"(?:GLIBCXX|CXXABI)_[\d.]+' not found",
        Explanation(
            "an older libstdc++ is found before the one that the library needs",
            "take it out of LD_LIBRARY_PATH; with conda: `conda install -c conda-forge libstdcxx-ng`",
        ),
    ),
    (
        r"lib(?:cu\w+|nv\w+|nccl)[\w.]*: cannot open shared object|lib(?:cu\w+|nvJitLink|nccl)\S*: undefined symbol",
        Explanation("torch does not find the CUDA libraries of its own release", command=_REINSTALL),
    ),
    (
        r"torchvision::nms|partially initialized module 'torchvision'",
        Explanation("torchvision is of another release than torch", "install the one made for it, or remove it",
                    "pip uninstall torchvision"),
    ),
    (
        r"undefined symbol|DLL load failed|symbol not found",
        Explanation("it was compiled for another release of torch or Python", command=_REINSTALL),
    ),
    (
        r"compiled using NumPy 1|numpy\.core\.multiarray failed|numpy\.dtype size changed",
        Explanation("it was compiled for another release of NumPy", command=_REINSTALL),
    ),
    # Python.
    (
        r"is required for a normal functioning of this module",
        Explanation("transformers refuses the release of a library that it needs", command=_REINSTALL),
    ),
    (
        r"No module named 'distutils'|No module named 'pkg_resources'",
        Explanation("setuptools is missing or of another age", command="pip install -c constraints.txt setuptools"),
    ),
    (
        r"circular import|partially initialized module|has no attribute '__version__'",
        Explanation("a file or folder with the library's name is found before it", "rename it"),
    ),
    (r"SIGILL", Explanation("the wheel uses AVX2 or newer, this processor or virtual machine has none",
                            "use a newer processor, or let the virtual machine pass its flags through")),
    (
        r"SIGSEGV|SIGABRT|SIGBUS",
        Explanation("compiled libraries of different releases meet in one process", command=_REINSTALL),
    ),
    (r"SIGKILL", Explanation("the system ended it: mostly for want of memory",
                             "give the container or job more memory")),
    # Building.
    (
        r"does not match the version torch was compiled with",
        Explanation(
            "DeepSpeed compiles only with the CUDA that torch was built with",
            "install that CUDA toolkit and set CUDA_HOME to it, or a torch for the toolkit that is there",
        ),
    ),
    (
        r"Unable to run \S*nvcc|CUDA_HOME does not exist|CUDA_HOME environment variable is not set",
        Explanation("no CUDA toolkit is found", "install it and set CUDA_HOME to its folder"),
    ),
    (
        r"Python\.h: No such file",
        Explanation("Python's headers are missing", command="sudo apt install python3-dev"),
    ),
    (
        r"libaio|io_submit|async_io op due to it not being compatible",
        Explanation("libaio or its header is missing", command="sudo apt install libaio-dev"),
    ),
    (
        r"[Nn]inja",
        Explanation("ninja is missing or broken", command="pip install -c constraints.txt ninja"),
    ),
    (
        r"unsupported GNU version|unsupported clang version",
        Explanation("the compiler is newer than this CUDA toolkit allows", "install an older g++ and set CXX to it"),
    ),
    (
        r"No space left|Disk quota exceeded",
        Explanation("the disk is full", "free some; TMPDIR, HF_HOME and TORCH_EXTENSIONS_DIR move what grows"),
    ),
    # Ranks.
    (
        r"Unable to find address for|Unable to resolve hostname|Name or service not known",
        Explanation("a name or interface does not lead to an address", "look at /etc/hosts and GLOO_SOCKET_IFNAME"),
    ),
    (
        r"Network is unreachable",
        Explanation("the loopback is down", "switch it on; a sandbox may have none", "sudo ip link set lo up"),
    ),
    (
        r"connectFullMesh|Timed out|timed out|timeout",
        Explanation("the ranks do not reach each other", "a firewall, or an address that is not this machine's"),
    ),
    (
        r"ncclUnhandledCudaError|ncclSystemError|ncclInternalError|unhandled (?:cuda|system) error",
        Explanation("NCCL failed below torch", "run again with NCCL_DEBUG=INFO, and with NCCL_P2P_DISABLE=1"),
    ),
)  # fmt: skip


def explain(error: str) -> Explanation | None:
    """What an error means; None where the table does not know it."""
    return next((found for pattern, found in _TABLE if re.search(pattern, error)), None)
