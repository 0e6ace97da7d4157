"""Plan -> accelerate.yaml: what `accelerate launch --config_file` reads to start the ranks.

Left out on purpose: `mixed_precision`, which accelerate refuses beside a DeepSpeed config file
(accelerate/utils/dataclasses.py, _deepspeed_config_checks); precision is in ds_config.json, and of Megatron-core in the
plan.
"""

from typing import Any

import yaml

from toolkit.planner.megatron_launch import launch_values
from toolkit.planner.plan import Plan


def accelerate_yaml(plan: Plan, *, ds_config_path: str) -> str:
    """Text of the file; `ds_config_path` as the ranks will find it from their working directory."""
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        **(_deepspeed(ds_config_path) if plan.strategy.on_deepspeed else _megatron(plan)),
        "enable_cpu_affinity": False,
        "machine_rank": 0,
        # One node: any free port, so that two runs on a machine do not meet. Several: all must know it.
        "main_process_port": 0 if plan.cluster.num_nodes == 1 else 29500,
        "main_training_function": "main",
        "num_machines": plan.cluster.num_nodes,
        "num_processes": plan.world_size,
        "rdzv_backend": "static",
        "same_network": True,
        # True, or `--cpu`, silently drops DeepSpeed and Megatron: also ranks on CPU leave it False.
        "use_cpu": False,
    }
    return yaml.safe_dump(config, sort_keys=False, width=1_000)


def _deepspeed(ds_config_path: str) -> dict[str, Any]:
    deepspeed = {
        "deepspeed_config_file": ds_config_path,
        # Every node starts its own ranks; `pdsh`, the default, wants a hostfile and passwordless ssh.
        "deepspeed_multinode_launcher": "standard",
        # True would partition whatever model is made in the process, also those that only export or check.
        "zero3_init_flag": False,
    }
    return {"deepspeed_config": deepspeed, "distributed_type": "DEEPSPEED"}


def _megatron(plan: Plan) -> dict[str, Any]:
    """accelerate's own Megatron engine runs with no released Megatron; as a launcher it starts the ranks and tells them
    these values in MEGATRON_LM_*, which must be the plan's (`Plan.check_launcher`)."""
    values = launch_values(plan.strategy, gradient_clipping=plan.gradient_clipping)
    return {
        "megatron_lm_config": {f"megatron_lm_{name}": value for name, value in values.items() if value is not None},
        "distributed_type": "MEGATRON_LM",
    }
