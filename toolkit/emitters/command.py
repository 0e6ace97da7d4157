"""Plan -> the words that start it: an argument list, a script, and the `toolkit plan` line that would make it again."""

import shlex
from pathlib import Path

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan

ACCELERATE_YAML, DS_CONFIG, PLAN, RECIPE = "accelerate.yaml", "ds_config.json", "plan.json", "recipe.yaml"
LAUNCH_SCRIPT = "launch.sh"

CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
"""What ranks without GPUs need: DeepSpeed told what to run on, and one thread per rank so that they do not fight."""


def launch_command(
    run_folder: Path, plan: Plan, *, machine_rank: int = 0, main_process_ip: str | None = None
) -> list[str]:
    """`accelerate launch ...` as an argument list for this node.

    Raises:
        ConfigError: a run over several nodes without the address of node 0.
    """
    nodes = plan.cluster.num_nodes
    if nodes > 1 and main_process_ip is None:
        raise ConfigError(
            f"the plan is for {nodes} nodes: on each run `MACHINE_RANK=<0 to {nodes - 1}> MAIN_PROCESS_IP=<address of "
            f"node 0> bash {shlex.quote(str(run_folder / LAUNCH_SCRIPT))}`"
        )
    words = ["accelerate", "launch", "--config_file", str(run_folder / ACCELERATE_YAML)]
    # Overrides the path inside accelerate.yaml, so that a run folder may be moved.
    words += ["--deepspeed_config_file", str(run_folder / DS_CONFIG)]
    if main_process_ip is not None:
        words += ["--machine_rank", str(machine_rank), "--main_process_ip", main_process_ip]
    words += ["-m", "toolkit.finetune"]
    return [*words, "--recipe", str(run_folder / RECIPE), "--plan", str(run_folder / PLAN)]


def replan_command(plan: Plan, *, cluster: str | None = None, output: str | None = None) -> str:
    """The `toolkit plan` line for the same model and workload, by default on the same cluster."""
    workload = plan.workload
    words = ["toolkit", "plan", "--model", plan.model.name, "--cluster", cluster or plan.cluster.name]
    words += ["--seq-len", str(workload.seq_len), "--global-batch", str(workload.global_batch)]
    words += ["--precision", workload.precision]
    if workload.method == "lora":
        words += ["--method", "lora", "--lora-rank", str(workload.lora_rank)]
    return shlex.join([*words, *(["-o", output] if output else [])])


def launch_script(plan: Plan) -> str:
    """Text of launch.sh: starts this node's ranks from any working directory; arguments go to `accelerate launch`."""
    words = ["exec accelerate launch", f'--config_file "$run"/{ACCELERATE_YAML}']
    words += [f'--deepspeed_config_file "$run"/{DS_CONFIG}']
    if plan.cluster.num_nodes > 1:
        words += ['--machine_rank "$MACHINE_RANK"', '--main_process_ip "$MAIN_PROCESS_IP"']
        words += ['--main_process_port "${MAIN_PROCESS_PORT:-29500}"']
    words += ['"$@"', f'-m toolkit.finetune --recipe "$run"/{RECIPE} --plan "$run"/{PLAN}']
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
