"""Joins the processes that the launcher started, and refuses to train where they are not one group."""

import contextlib
import copy
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from deepspeed.accelerator import get_accelerator

from toolkit.engines.ds.config import DsConfig
from toolkit.engines.ds.ops import BUILD_FAILURES, load_op
from toolkit.engines.ds.sums import gather_objects
from toolkit.errors import INSTALL_LIBAIO, EngineError, MachineError
from toolkit.planner.plan import Plan
from toolkit.specs.machine import local_sockets
from toolkit.versions import installed_versions

# A rank may compile an op, or read a slow disk, for long while the others wait in the first collective.
_TIMEOUT = timedelta(minutes=30)


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
            kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=_TIMEOUT)],
        )
    _check_world(accelerator.num_processes, plan, seen_by="accelerate")
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
    on_cpu = plan.cluster.device.kind == "cpu"
    device = torch.device("cpu") if on_cpu else torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if not on_cpu:
        torch.cuda.set_device(device)
    with contextlib.redirect_stdout(io.StringIO()):  # every rank prints the ops that it has compiled
        deepspeed.init_distributed("gloo" if on_cpu else "nccl", timeout=_TIMEOUT)
    _check_world(dist.get_world_size(), plan, seen_by="torch.distributed")
    return device


def _make_ready(plan: Plan) -> None:
    """What must be so before the ranks meet."""
    _check_device(plan)
    if plan.cluster.num_nodes == 1:
        for name, value in local_sockets().items():
            os.environ.setdefault(name, value)
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
        _load_cpu_collectives()


def _is_news(record: logging.LogRecord) -> bool:
    return "untested optimizer" not in record.getMessage()


def _check_world(ranks: int, plan: Plan, *, seen_by: str) -> None:
    if ranks != plan.world_size:
        raise EngineError(
            f"{seen_by} sees {ranks} process(es), the plan has {plan.world_size}; "
            "every rank would train a model of its own; start the run with `toolkit launch`"
        )
    _check_versions(gather_objects(installed_versions()))


def _check_versions(by_rank: Sequence[dict[str, str]]) -> None:
    """Machines of one run may have been set up on different days; what differs shows as other numbers, or not at all.

    Raises:
        EngineError: naming each library, and the first rank that has another release than rank 0.
    """
    told = []
    for name, release in by_rank[0].items():
        others = [(rank, versions[name]) for rank, versions in enumerate(by_rank) if versions[name] != release]
        told += [f"{name} {release} on rank 0 and {other} on rank {rank}" for rank, other in others[:1]]
    if told:
        raise EngineError(f"the ranks run different releases: {', '.join(told)}; install the same on every machine")


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


def _check_device(plan: Plan) -> None:
    planned = plan.cluster.device.kind
    # torch calls AMD's GPUs cuda devices too.
    if planned != "cpu" and not torch.cuda.is_available():
        raise MachineError(
            f"the plan is for {plan.cluster.name}, this machine has no CUDA device; "
            f"plan again with `--cluster {plan.world_size}xcpu` or start the run on a GPU machine"
        )
    if planned != "cpu" and torch.cuda.device_count() < plan.cluster.gpus_per_node:
        raise MachineError(
            f"the plan has {plan.cluster.gpus_per_node} GPUs per node, this process sees {torch.cuda.device_count()}; "
            "plan again without --cluster, or make the others visible (CUDA_VISIBLE_DEVICES)"
        )
    if planned == "cpu" and torch.cuda.is_available():
        raise MachineError(
            f"the plan is for {plan.cluster.name}, this process sees CUDA devices; "
            "plan again without --cluster, or export CUDA_VISIBLE_DEVICES= (empty) and DS_ACCELERATOR=cpu"
        )
    if planned == "cpu" and plan.workload.precision == "fp16" and not get_accelerator().is_fp16_supported():
        # DeepSpeed ends with a ValueError after the weights were read.
        raise MachineError(
            "precision=fp16: this processor has no products in fp16 (AVX512-FP16 or AMX); plan again with --precision "
            "fp32 or bf16"
        )
    compiler = os.environ.get("CXX", "g++")
    if planned == "cpu" and shutil.which(compiler) is None:
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
