"""Joins the processes that the launcher started, and has Megatron divide them."""

import logging
import os
import warnings

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from toolkit.engines.common.machine import TIMEOUT, check_world, make_ready, own_device
from toolkit.planner.plan import Plan


def join(plan: Plan) -> torch.device:
    """The process group of all ranks; this rank's device.

    Raises:
        MachineError: no GPU for a GPU plan, GPUs in the way of a CPU plan.
        EngineError: the processes do not see each other.
    """
    make_ready(plan)
    # Megatron calls collectives by names that torch 2.13 deprecates: nothing a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Kernels then start in the order in which they were given: a collective begins before the product that hides it.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = own_device(plan)
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl", timeout=TIMEOUT)
    check_world(dist.get_world_size(), plan, seen_by="torch.distributed")
    return device


def divide(plan: Plan, seed: int) -> None:
    """Megatron's groups, numbered tensor-parallel ranks first, then cp, dp and pp; to be called as `cuda` is there."""
    layout = plan.strategy.layout
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=plan.strategy.vpp if plan.strategy.vpp > 1 else None,
        context_parallel_size=layout.cp,
        distributed_timeout_minutes=int(TIMEOUT.total_seconds() / 60),
        # For checkpoints of its own, which are not used here.
        create_gloo_process_groups=False,
    )
    if not torch.cuda.is_available():
        # On a CPU there is one generator for both of its kinds, and it warns of that in every layer.
        logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)
    model_parallel_cuda_manual_seed(seed)


def leave() -> None:
    """Megatron's groups first: another engine of this process may divide the ranks anew."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
