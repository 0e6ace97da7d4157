"""Joins the processes that the launcher started, and refuses to train where they are not one group."""

import contextlib
import copy
import io
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from deepspeed.accelerator import get_accelerator

from toolkit.engines.common.machine import TIMEOUT, check_world, make_ready, own_device
from toolkit.engines.ds.config import DsConfig
from toolkit.engines.ds.ops import BUILD_FAILURES, load_op
from toolkit.errors import INSTALL_LIBAIO, MachineError
from toolkit.planner.plan import Plan

DEEPSPEED = f"DeepSpeed {deepspeed.__version__}"
"""Name and release, for messages."""


def start(config: DsConfig, plan: Plan) -> Accelerator:
    """The process group of all ranks, with DeepSpeed configured.

    Raises:
        MachineError: no GPU for a GPU plan, GPUs in the way of a CPU plan, no compiler for DeepSpeed's CPU ops, fp16 on
            a processor without it.
        EngineError: the processes do not see each other.
    """
    _make_ready(plan)
    # On CPU accelerate starts no process group unless gloo is asked for: every rank would train a copy of its own.
    backend = "gloo" if plan.cluster.device.kind == "cpu" else None
    with contextlib.redirect_stdout(io.StringIO()):  # every rank prints the ops that it has compiled
        accelerator = Accelerator(
            gradient_accumulation_steps=plan.strategy.grad_accum,
            # The plugin writes into the dict it gets.
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=copy.deepcopy(config.content), zero3_init_flag=False),
            kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=TIMEOUT)],
        )
    check_world(accelerator.num_processes, plan, seen_by="accelerate")
    return accelerator


def prepare(accelerator: Accelerator, model: Any, optimizer: Any, *, config: DsConfig) -> Any:
    """DeepSpeed's engine around the model.

    accelerate makes a device mesh of tp ranks whatever the world size, which only works with one replica: with tensor
    parallelism DeepSpeed is called directly.
    """
    if config.tp == 1:
        return accelerator.prepare(model, optimizer)[0]
    return deepspeed.initialize(model=model, optimizer=optimizer, config=copy.deepcopy(config.content))[0]


def join(plan: Plan) -> torch.device:
    """`start` for what accelerate knows nothing about: DeepSpeed's own group of all ranks; this rank's device.

    Raises:
        MachineError: as `start`.
        EngineError: as `start`.
    """
    _make_ready(plan)
    device = own_device(plan)
    with contextlib.redirect_stdout(io.StringIO()):  # every rank prints the ops that it has compiled
        deepspeed.init_distributed("gloo" if device.type == "cpu" else "nccl", timeout=TIMEOUT)
    check_world(dist.get_world_size(), plan, seen_by="torch.distributed")
    return device


def _make_ready(plan: Plan) -> None:
    """What must be so before the ranks meet."""
    make_ready(plan)
    deepspeeds = logging.getLogger("DeepSpeed")
    deepspeeds.setLevel(logging.WARNING)
    # Said of every optimizer that is not DeepSpeed's own; what goes with ZeRO here has its tests (docs/optimizers.md).
    deepspeeds.addFilter(_is_news)
    # DeepSpeed calls collectives by names that torch 2.13 deprecates: nothing a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed's pipeline sends by broadcasts among two where it was installed without compiled ops; the gradient comes
    # back by a broadcast of its own, not through this one.
    warnings.filterwarnings("ignore", message="c10d::broadcast_: an autograd kernel was not registered")
    if plan.cluster.device.kind == "cpu":
        _check_processor(plan)
        _check_compiler()
        _load_cpu_collectives()


def _is_news(record: logging.LogRecord) -> bool:
    return "untested optimizer" not in record.getMessage()


def remove_swapped(folder: Path, rank: int) -> None:
    """What a rank has swapped is of no use to anybody else, and as large as the optimizer's states."""
    for swapped in folder.glob(f"zero_stage_3/*/rank{rank}"):
        shutil.rmtree(swapped, ignore_errors=True)


def make_swap_folder(folder: Path) -> None:
    """The folder that ZeRO-Infinity swaps states to, and DeepSpeed's op that does it.

    Raises:
        MachineError: the op does not build here (it needs libaio), or the folder cannot be written.
    """
    try:
        load_op("AsyncIOBuilder")
    except BUILD_FAILURES as error:
        raise MachineError(
            f"offload to a disk needs DeepSpeed's async_io, which does not build here ({error}); {INSTALL_LIBAIO}, or "
            "plan again with --offload-to cpu"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(
            f"{folder}: cannot be written ({error.strerror}); set `nvme_path` in ds_config.json to a folder on the "
            "local disk"
        ) from None


def _check_processor(plan: Plan) -> None:
    if plan.workload.precision == "fp16" and not get_accelerator().is_fp16_supported():
        # DeepSpeed ends with a ValueError after the weights were read.
        raise MachineError(
            "precision=fp16: this processor has no products in fp16 (AVX512-FP16 or AMX), DeepSpeed refuses it; plan "
            "again with --precision fp32 or bf16"
        )


def _check_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        # Its shared-memory collectives are compiled on first use; the failure is a traceback on one rank only.
        raise MachineError(
            f"DeepSpeed compiles its CPU ops with {compiler}, not found; install g++ (Debian: `apt install g++`)"
        )


def _load_cpu_collectives() -> None:
    """DeepSpeed loads them when the group starts; before it, no rank waits for another that compiles."""
    try:
        load_op("ShareMemCommBuilder")
    except BUILD_FAILURES as error:
        raise MachineError(f"DeepSpeed's CPU collectives do not compile here: {error}") from None
