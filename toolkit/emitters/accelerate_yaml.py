"""Plan -> accelerate.yaml: what `accelerate launch --config_file` reads to start the ranks.

Left out on purpose: `mixed_precision`, which accelerate refuses beside a DeepSpeed config file
(accelerate/utils/dataclasses.py, _deepspeed_config_checks); precision is in ds_config.json.
"""

import yaml

from toolkit.planner.plan import Plan


def accelerate_yaml(plan: Plan, *, ds_config_path: str) -> str:
    """Text of the file; `ds_config_path` as the ranks will find it from their working directory."""
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "deepspeed_config": {
            "deepspeed_config_file": ds_config_path,
            # Every node starts its own ranks; `pdsh`, the default, wants a hostfile and passwordless ssh.
            "deepspeed_multinode_launcher": "standard",
            # True would partition whatever model is made in the process, also those that only export or check.
            "zero3_init_flag": False,
        },
        "distributed_type": "DEEPSPEED",
        "enable_cpu_affinity": False,
        "machine_rank": 0,
        # One node: any free port, so that two runs on a machine do not meet. Several: all must know it.
        "main_process_port": 0 if plan.cluster.num_nodes == 1 else 29500,
        "main_training_function": "main",
        "num_machines": plan.cluster.num_nodes,
        "num_processes": plan.world_size,
        "rdzv_backend": "static",
        "same_network": True,
        # True, or `--cpu`, silently drops DeepSpeed: also ranks on CPU leave it False.
        "use_cpu": False,
    }
    return yaml.safe_dump(config, sort_keys=False, width=1_000)
