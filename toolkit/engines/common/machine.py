"""Whether this machine, and the processes that were started on it, are what the plan is for."""

import os
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import torch

from toolkit.engines.common.sums import gather_objects
from toolkit.errors import EngineError, MachineError
from toolkit.planner.plan import Plan
from toolkit.specs.machine import local_sockets
from toolkit.versions import installed_versions

TIMEOUT = timedelta(minutes=30)
"""Of collectives: a rank may compile an op, or read a slow disk, for long while the others wait in the first one."""


def check_installed(package: str, *, extra: str) -> None:
    """Refuse to go on without a package that only some runs need.

    Args:
        package: as pip knows it.
        extra: of this toolkit's that brings it.

    Raises:
        MachineError: with the command that installs it.
    """
    try:
        version(package)
    except PackageNotFoundError:
        raise MachineError(
            f"{package}: not installed, this plan runs on it; pip install -c constraints.txt -e '.[train,{extra}]' in "
            "the toolkit's own folder (Linux, Python below 3.14), or plan again with another engine; `toolkit doctor` "
            "says what else this machine lacks"
        ) from None


def make_ready(plan: Plan) -> None:
    """What must be so before the ranks meet.

    Raises:
        MachineError: no GPU for a GPU plan, or GPUs in the way of a CPU plan.
    """
    _check_device(plan)
    if plan.cluster.num_nodes == 1:
        for name, value in local_sockets().items():
            os.environ.setdefault(name, value)


def own_device(plan: Plan) -> torch.device:
    """This rank's, made the current one."""
    if plan.cluster.device.kind == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def check_world(ranks: int, plan: Plan, *, seen_by: str) -> None:
    """Refuse processes that are not one group of the planned size, or do not run the same releases: a collective.

    Raises:
        EngineError: with what to do.
    """
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
        others = [(rank, of.get(name, "none")) for rank, of in enumerate(by_rank) if of.get(name) != release]
        told += [f"{name} {release} on rank 0 and {other} on rank {rank}" for rank, other in others[:1]]
    if told:
        raise EngineError(f"the ranks run different releases: {', '.join(told)}; install the same on every machine")


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
