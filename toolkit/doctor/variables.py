"""Environment variables that change what a run does, mostly without a word."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine
from toolkit.doctor.network import interface_names
from toolkit.doctor.variable_table import TABLE, Seen

_FAMILIES = re.compile(
    r"^(ACCELERATE|CUBLAS|CUDA|CUDNN|DS|FI|GLOO|HF|HUGGINGFACE|KMP|MEGATRON|MKL|NCCL|NVIDIA|NVTE|OMP|PYTORCH|SLURM_J|TF32|"
    r"TORCH|TORCHELASTIC|TORCHINDUCTOR|TRANSFORMERS|TRITON|UCX|WANDB)_|^(CC|CXX|LD_LIBRARY_PATH|LD_PRELOAD|"
    r"PYTHON\w+|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE|TMPDIR|XDG_CACHE_HOME)$"
)
_DEEPSPEED_KINDS = ("cuda", "cpu", "xpu", "npu", "mps", "hpu", "mlu", "sdaa", "supa", "klxpu")
_RANK_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PRELOADED = re.compile(r"lib(?:cudart|cudnn|cublas|nccl|nvrtc|cusparse)[\w.-]*\.so")


def examine_variables(machine: Machine, *, num_gpus: int) -> Section:
    """The probe; `num_gpus`: what the driver has."""
    named = sorted(name for name in machine.environment if _FAMILIES.match(name))
    seen = Seen(machine, num_gpus, frozenset(interface_names()))
    findings = [one for rule in TABLE for one in rule(seen)]
    findings += [
        *_judge_devices(seen),
        *_judge_ranks(machine),
        *_judge_paths(machine),
        *_judge_programs(machine),
        *_judge_rest(machine, findings),
    ]
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    facts: dict[str, Any] = {
        "set": named,
        "visible_gpus": None if visible is None else machine.shown("CUDA_VISIBLE_DEVICES"),
    }
    return Section("environment", facts, tuple(findings))


def _judge_devices(seen: Seen) -> Iterator[Finding]:
    machine, num_gpus = seen.machine, seen.num_gpus
    kind = machine.set("DS_ACCELERATOR")
    if kind and kind not in _DEEPSPEED_KINDS:
        told = f"{machine.shown('DS_ACCELERATOR')}, DeepSpeed knows {', '.join(_DEEPSPEED_KINDS)}"
        yield Finding("error", "ds-accelerator", told, "importing DeepSpeed fails", command="unset DS_ACCELERATOR")
    elif kind and kind != "cpu" and not num_gpus and kind == "cuda":
        told = "DS_ACCELERATOR is cuda, and there is no GPU"
        yield Finding("error", "ds-accelerator", told, "ranks end at start", command="unset DS_ACCELERATOR")
    elif kind == "cpu" and num_gpus and machine.environment.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        told = f"DS_ACCELERATOR is cpu, and {num_gpus} GPUs are visible"
        effect = "DeepSpeed computes on the processor and torch on the GPUs: runs for GPUs are refused or fail"
        yield Finding("warning", "ds-accelerator", told, effect, command="unset DS_ACCELERATOR")
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not num_gpus:
        return
    words = [word.strip() for word in visible.split(",")]
    if visible.strip() in ("", "-1", "NoDevFiles"):
        told = f"CUDA_VISIBLE_DEVICES is {visible!r}: it hides all {num_gpus} GPUs"
        effect = "runs planned for GPUs are refused; plans without --cluster are for processors"
        yield Finding("warning", "gpus-hidden", told, effect, command="unset CUDA_VISIBLE_DEVICES")
    elif len(set(words)) < len(words):
        told = f"{machine.shown('CUDA_VISIBLE_DEVICES')}: a GPU is named twice"
        yield Finding("error", "gpus-twice", told, "CUDA sees none of them", command="unset CUDA_VISIBLE_DEVICES")
    elif wrong := [word for word in words if word.isdecimal() and int(word) >= num_gpus]:
        told = f"CUDA_VISIBLE_DEVICES names {', '.join(wrong)}, the GPUs are 0 to {num_gpus - 1}"
        effect = "what follows the first wrong number is hidden"
        yield Finding("warning", "gpus-hidden", told, effect, command="unset CUDA_VISIBLE_DEVICES")


def _judge_ranks(machine: Machine) -> Iterator[Finding]:
    set_here = [name for name in _RANK_NAMES if machine.set(name)]
    # A launcher's own: torchrun marks them, Slurm gives every task a number.
    if set_here and not machine.set("TORCHELASTIC_RUN_ID") and not machine.set("SLURM_PROCID"):
        told = f"{', '.join(set_here)} set in this shell, and no launcher has set them"
        effect = "a script started by hand waits for ranks that nobody starts; `toolkit launch` sets its own"
        yield Finding("warning", "rank-variables", told, effect, command=f"unset {' '.join(set_here)}")


def _judge_paths(machine: Machine) -> Iterator[Finding]:
    libraries = [folder for folder in machine.set("LD_LIBRARY_PATH").split(":") if folder]
    found = {file.name for folder in libraries for file in _files(Path(folder)) if _PRELOADED.match(file.name)}
    if found:
        kinds = sorted({name.split(".so")[0] for name in found})
        told = f"LD_LIBRARY_PATH leads to {', '.join(kinds)}"
        effect = "they are loaded in place of those that torch's wheel brings; of another release they fail or crash"
        yield Finding("note", "library-path", told, effect, "if importing torch fails:", "unset LD_LIBRARY_PATH")
    elsewhere = Path(shutil.which("accelerate", path=machine.environment.get("PATH", "")) or "")
    if elsewhere.name and elsewhere.resolve().parent != Path(sys.executable).resolve().parent:
        own = Path(sys.executable).parent / "accelerate"
        if own.exists() and elsewhere.parent != own.parent:
            told = "the `accelerate` that the shell finds is another environment's than this Python's"
            effect = "`accelerate launch` starts ranks with other libraries; `toolkit launch` starts its own"
            yield Finding("warning", "two-environments", told, effect, "activate the environment",
                          "source .venv/bin/activate")  # fmt: skip
    temporary = machine.set("TMPDIR")
    if temporary and not Path(temporary).is_dir():
        told = "TMPDIR names a folder that is not there"
        yield Finding("warning", "no-tmpdir", told, "compilers fail", command='mkdir -p "$TMPDIR"')
    home = machine.set("CUDA_HOME") or machine.set("CUDA_PATH")
    if home and not (Path(home) / "bin" / "nvcc").exists():
        told = "CUDA_HOME leads to no bin/nvcc"
        effect = "DeepSpeed's ops for GPUs are not compiled"
        yield Finding("warning", "cuda-home", told, effect, command="unset CUDA_HOME CUDA_PATH")


def _judge_programs(machine: Machine) -> Iterator[Finding]:
    config = Path(machine.set("ACCELERATE_CONFIG_FILE") or "")
    if config.name and not config.is_file():
        told = "ACCELERATE_CONFIG_FILE names a file that is not there"
        yield Finding("warning", "accelerate-config", told, "`accelerate launch` fails without --config_file",
                      command="unset ACCELERATE_CONFIG_FILE")  # fmt: skip


def _judge_rest(machine: Machine, told: list[Finding]) -> Iterator[Finding]:
    """NCCL_* and ACCELERATE_* that no rule has spoken of."""
    words = " ".join(one.message for one in told)
    for family, effect in (
        ("NCCL_", "NCCL takes them over what it finds out; those of another machine make it slow or stop it"),
        ("ACCELERATE_", "accelerate takes them over its config file in scripts that it does not launch itself"),
    ):
        names = [
            name for name in sorted(machine.environment) if name.startswith(family) and name not in words
            and name != "ACCELERATE_CONFIG_FILE"
        ]  # fmt: skip
        if names:
            yield Finding("note", f"{family.lower().rstrip('_')}-variables", f"{', '.join(names)} set", effect,
                          command=f"unset {' '.join(names)}")  # fmt: skip


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
