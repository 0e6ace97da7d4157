"""Reads the run's ds_config.json, which people edit by hand: what they changed is used and told, or refused by name."""

import json
import os
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

DsConfig = dict[str, Any]


def find_ds_config(folder: RunFolder) -> Path:
    """The file that accelerate.yaml names (it may have been edited to another one), else the run's own."""
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    return Path(named) if named else folder.ds_config


def load_ds_config(path: Path, plan: Plan) -> DsConfig:
    """Read and check the config against the plan.

    Raises:
        ConfigError: broken JSON (with its line), or keys that contradict the plan; all of them at once.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; write it again with `toolkit plan ... --overwrite`") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); mend the line") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: holds {type(config).__name__}, needs a JSON object")
    if faults := _faults(config, plan):
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def zero_stage(config: DsConfig) -> int:
    """ZeRO stage, 0-3; DeepSpeed's default without the key is 0."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def offloads_optimizer(config: DsConfig) -> bool:
    """True if the optimizer states live in host memory."""
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return str(offload.get("device", "none")) != "none"


def low_precision(config: DsConfig) -> str | None:
    """`bf16`, `fp16` or None for fp32."""
    return next((name for name in ("bf16", "fp16") if config.get(name, {}).get("enabled", False)), None)


def hand_edits(config: DsConfig, plan: Plan) -> list[str]:
    """Sentences about values that differ from the plan and are used as they stand in the file."""
    planned = plan.strategy
    checks = [
        ("zero_optimization.stage", zero_stage(config), planned.zero_stage),
        ("gradient_clipping", config["gradient_clipping"], plan.gradient_clipping),
        ("precision", low_precision(config) or "fp32", plan.workload.precision),
        ("offload_optimizer", offloads_optimizer(config), planned.offload != "none"),
    ]
    return [f"ds_config.json: {key} is {given}, planned {was}" for key, given, was in checks if given != was]


def _faults(config: DsConfig, plan: Plan) -> list[str]:
    strategy = plan.strategy
    faults = [f'`{key}` is "auto"; write the number, nothing fills it in here' for key in _autos(config)]
    for key, planned in (
        ("train_micro_batch_size_per_gpu", strategy.micro_batch),
        ("gradient_accumulation_steps", strategy.grad_accum),
    ):
        # The sampler follows the plan: another number here would silently change the global batch.
        if config.get(key) != planned:
            given = config.get(key, "missing")
            faults.append(f"`{key}` is {given}, the plan has {planned}; plan again with --micro-batch/--global-batch")
    product = strategy.micro_batch * strategy.grad_accum * plan.world_size
    if config.get("train_batch_size", product) != product:
        faults.append(f"`train_batch_size` is {config['train_batch_size']}, needs {product}; remove the key")
    if "gradient_clipping" not in config:
        # Its default went from 0 to 1.0 in 0.19.3 (DeepSpeed #8068): never leave it to the release.
        faults.append(f"`gradient_clipping` is missing; write {plan.gradient_clipping}")
    for key, section in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if key in config:
            faults.append(f"`{key}` is not read here; remove it and set `{section}` in recipe.yaml")
    return faults


def _autos(config: DsConfig, prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        if value == "auto":
            found.append(prefix + key)
        elif isinstance(value, dict):
            found += _autos(value, f"{prefix}{key}.")
    return found
