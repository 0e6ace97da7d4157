"""Plan -> the words that start it: an argument list and a script."""

import shlex
from pathlib import Path

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""What ranks without GPUs need: DeepSpeed told what to run on, and one thread per rank so that they do not fight."""


def launch_command(
    run_folder: Path, plan: Plan, *, machine_rank: int = 0, main_process_ip: str | None = None
) -> list[str]:
    """`accelerate launch ...` as an argument list for this node.

    Raises:
        ConfigError: a run over several nodes without the address of node 0.
    """
    run, nodes = RunFolder(run_folder), plan.cluster.num_nodes
    if nodes > 1 and main_process_ip is None:
        raise ConfigError(
            f"the plan is for {nodes} nodes: on each run `MACHINE_RANK=<0 to {nodes - 1}> MAIN_PROCESS_IP=<address of "
            f"node 0> bash {shlex.quote(str(run.script))}`"
        )
    words = ["accelerate", "launch", "--config_file", str(run.accelerate)]
    # Overrides the path inside accelerate.yaml, so that a run folder may be moved.
    words += ["--deepspeed_config_file", str(run.ds_config)]
    if main_process_ip is not None:
        words += ["--machine_rank", str(machine_rank), "--main_process_ip", main_process_ip]
    words += ["-m", "toolkit.finetune"]
    return [*words, "--recipe", str(run.recipe), "--plan", str(run.plan)]


def launch_script(plan: Plan) -> str:
    """Text of launch.sh: starts this node's ranks from any working directory; arguments go to `accelerate launch`."""
    run = RunFolder(Path("$run"))
    words = ["exec accelerate launch", f'--config_file "{run.accelerate}"']
    words += [f'--deepspeed_config_file "{run.ds_config}"']
    if plan.cluster.num_nodes > 1:
        words += ['--machine_rank "$MACHINE_RANK"', '--main_process_ip "$MAIN_PROCESS_IP"']
        words += ['--main_process_port "${MAIN_PROCESS_PORT:-29500}"']
    words += ['"$@"', f'-m toolkit.finetune --recipe "{run.recipe}" --plan "{run.plan}"']
    lines = [
        "#!/usr/bin/env bash",
        f"# {plan.model.name} on {plan.world_size} x {plan.cluster.device.name}; made by `toolkit plan`.",
        "set -euo pipefail",
        'run="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"',
        *_environment(plan),
        " \\\n  ".join(words),
    ]
    return "\n".join(lines) + "\n"


def _environment(plan: Plan) -> list[str]:
    last = plan.cluster.num_nodes - 1
    lines = []
    if plan.cluster.device.kind == "cpu":
        lines = [f"export {name}={shlex.quote(value)}" for name, value in CPU_ENVIRONMENT.items()]
    if last:
        lines += [
            f': "${{MACHINE_RANK:?number of this node, 0 to {last}}}"',
            ': "${MAIN_PROCESS_IP:?address of node 0}"',
        ]
    return lines
