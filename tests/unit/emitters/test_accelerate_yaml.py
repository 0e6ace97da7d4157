"""accelerate.yaml and the launch command, read by accelerate's own launcher up to the point where it starts ranks."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.emitters.accelerate_yaml import accelerate_yaml
from toolkit.emitters.command import launch_command
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


def plan(cluster: str = "4xA100-80GB", *, model: str = "smollm-135m", **given: object) -> Plan:
    precision = "fp32" if "cpu" in cluster else "bf16"
    pins = given if "engine" in given else {"without": "mcore", **given}
    workload, fixed = Workload(seq_len=512, global_batch=32, precision=precision), Fixed.model_validate(pins)
    return make_plan(ModelSpec.resolve(model), ClusterSpec.resolve(cluster), workload, fixed=fixed)


@pytest.mark.parametrize(
    ("cluster", "nodes", "ranks"), [("4xA100-80GB", 1, 4), ("2x4xA100-80GB", 2, 8), ("2xcpu", 1, 2)]
)
def test_accelerate_loads_it(cluster: str, nodes: int, ranks: int, tmp_path: Path) -> None:
    loader = pytest.importorskip("accelerate.commands.config.config_args")
    file = tmp_path / "accelerate.yaml"
    file.write_text(accelerate_yaml(plan(cluster), ds_config_path="run/ds_config.json"))
    config = loader.load_config_from_file(str(file))
    assert config.distributed_type == "DEEPSPEED"
    assert (config.num_machines, config.num_processes, config.machine_rank) == (nodes, ranks, 0)
    assert config.use_cpu is False
    assert config.mixed_precision is None
    assert config.deepspeed_config == {
        "deepspeed_config_file": "run/ds_config.json",
        "deepspeed_multinode_launcher": "standard",
        "zero3_init_flag": False,
    }


@pytest.mark.parametrize("given", [{"tp": 2}, {"sp": 2}, {"pp": 2}, {"pp": 2, "tp": 2}])
def test_processes_are_started_alike_however_a_replica_is_divided(given: dict[str, int]) -> None:
    texts = {accelerate_yaml(plan(model="llama-3.2-1b", **pins), ds_config_path="x") for pins in ({}, given)}
    assert len(texts) == 1


def test_precision_stays_in_the_deepspeed_file() -> None:
    assert "mixed_precision" not in yaml.safe_load(accelerate_yaml(plan(), ds_config_path="x"))


@pytest.mark.parametrize("cluster", ["4xA100-80GB", "2x4xA100-80GB"])
def test_the_launcher_takes_the_command(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = pytest.importorskip("accelerate.commands.launch")
    started: list[Any] = []
    monkeypatch.setattr(launcher, "deepspeed_launcher", started.append)
    made = plan(cluster)
    (tmp_path / "accelerate.yaml").write_text(accelerate_yaml(made, ds_config_path="elsewhere/ds_config.json"))
    address = "10.0.0.1" if made.cluster.num_nodes > 1 else None
    words = launch_command(tmp_path, made, machine_rank=made.cluster.num_nodes - 1, main_process_ip=address)
    assert words[:2] == ["accelerate", "launch"]

    launcher.launch_command(launcher.launch_command_parser().parse_args(words[2:]))

    (args,) = started
    assert args.use_deepspeed
    assert args.num_processes == made.world_size
    assert args.machine_rank == made.cluster.num_nodes - 1
    assert args.main_process_ip == address
    # The folder that is launched, wherever it was written.
    assert args.deepspeed_config_file == str(tmp_path / "ds_config.json")
    # What accelerate refuses beside a DeepSpeed config file must not be among these.
    fields = set(args.deepspeed_fields_from_accelerate_config.split(","))
    assert fields == {"deepspeed_config_file", "deepspeed_multinode_launcher", "zero3_init_flag"}
    assert args.module
    assert args.training_script == "toolkit.finetune"
    expected = ["--recipe", str(tmp_path / "recipe.yaml"), "--plan", str(tmp_path / "plan.json")]
    assert args.training_script_args == expected


MEGATRON = {"engine": "mcore", "tp": 2, "pp": 2, "activation_checkpointing": "full"}


def megatron_values(made: Plan) -> dict[str, Any]:
    config = yaml.safe_load(accelerate_yaml(made, ds_config_path="x"))
    assert config["distributed_type"] == "MEGATRON_LM"
    assert "deepspeed_config" not in config
    return {name.removeprefix("megatron_lm_"): value for name, value in config["megatron_lm_config"].items()}


def test_megatrons_layout_is_written_whole() -> None:
    made = plan("4xA100-80GB", model="llama-3.2-1b", **MEGATRON, cp=1)
    assert megatron_values(made) == {
        "tp_degree": 2,
        "pp_degree": 2,
        "context_parallel_size": 1,
        "sequence_parallelism": True,
        "use_distributed_optimizer": True,
        "gradient_clipping": 1.0,
        "num_micro_batches": made.strategy.grad_accum,
        "calculate_per_token_loss": True,
        "recompute_activations": False,
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    }
    assert megatron_values(plan(**{**MEGATRON, "tp": 1}, cp=2))["context_parallel_size"] == 2
    assert not megatron_values(plan(model="llama-3.2-1b", **MEGATRON, tp_sequence=False))["sequence_parallelism"]


@pytest.mark.parametrize("cluster", ["4xA100-80GB", "2x4xA100-80GB", "4xcpu"])
def test_the_launcher_tells_megatrons_layout_to_the_ranks(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = pytest.importorskip("accelerate.commands.launch")
    from accelerate.utils import launch as environments
    from accelerate.utils.dataclasses import MegatronLMPlugin

    started: list[Any] = []
    monkeypatch.setattr(launcher, "multi_gpu_launcher", started.append)
    made = plan(cluster, model="llama-3.2-1b", **MEGATRON)
    (tmp_path / "accelerate.yaml").write_text(accelerate_yaml(made, ds_config_path="x"))
    address = "10.0.0.1" if made.cluster.num_nodes > 1 else None
    words = launch_command(tmp_path, made, machine_rank=made.cluster.num_nodes - 1, main_process_ip=address)
    assert "--deepspeed_config_file" not in words

    launcher.launch_command(launcher.launch_command_parser().parse_args(words[2:]))

    (args,) = started
    assert args.use_megatron_lm
    assert not args.use_deepspeed
    assert args.num_processes == made.world_size
    environment = environments.prepare_multi_gpu_env(args)
    made.check_launcher(environment)
    told = {name: value for name, value in environment.items() if name.startswith("MEGATRON_LM_")}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    plugin = MegatronLMPlugin()
    assert (plugin.tp_degree, plugin.pp_degree, plugin.context_parallel_size) == (2, 2, 1)
    assert plugin.sequence_parallelism
    assert plugin.use_distributed_optimizer
    assert plugin.recompute_granularity == "full"
