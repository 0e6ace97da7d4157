"""Plan -> files: a run folder that `toolkit launch`, `accelerate launch` or launch.sh starts."""

import json
import tempfile
from pathlib import Path

from toolkit.emitters.accelerate_yaml import accelerate_yaml
from toolkit.emitters.command import (
    ACCELERATE_YAML,
    DS_CONFIG,
    LAUNCH_SCRIPT,
    PLAN,
    RECIPE,
    launch_command,
    launch_script,
    replan_command,
)
from toolkit.emitters.ds_config import ds_config
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe

__all__ = ["accelerate_yaml", "ds_config", "emit", "launch_command", "launch_script", "replan_command"]

RUN_MARKS = (PLAN, "telemetry.jsonl")
"""A folder with one of these holds a run."""


def emit(plan: Plan, folder: Path, recipe: Recipe, *, overwrite: bool = False) -> Path:
    """Write plan.json, ds_config.json, accelerate.yaml, recipe.yaml and launch.sh into `folder`; all of them or none.

    With `overwrite` the five files of an earlier run are replaced and its results are left alone.

    Raises:
        ConfigError: the folder holds a run, cannot be written, or the recipe asks for another workload.
    """
    if recipe.workload != plan.workload:
        raise ConfigError(_other_workload(plan, recipe))
    found = [name for name in RUN_MARKS if (folder / name).exists()]
    if found and not overwrite:
        raise ConfigError(f"{folder} already holds a run ({', '.join(found)}); name another folder or add --overwrite")
    try:
        _write(plan, folder, recipe)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name a folder you may write to") from None
    return folder


def _write(plan: Plan, folder: Path, recipe: Recipe) -> None:
    """Everything into a sibling folder first: on one file system every move is atomic; plan.json, the mark, is last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # A folder inside: mkdtemp's own is closed to others, this one gets what the umask gives any folder.
        draft = Path(scratch) / "run"
        draft.mkdir()
        (draft / DS_CONFIG).write_text(json.dumps(ds_config(plan), indent=2) + "\n", encoding="utf-8")
        text = accelerate_yaml(plan, ds_config_path=str(folder / DS_CONFIG))
        (draft / ACCELERATE_YAML).write_text(text, encoding="utf-8")
        (draft / LAUNCH_SCRIPT).write_text(launch_script(plan), encoding="utf-8")
        (draft / LAUNCH_SCRIPT).chmod(0o755)
        recipe.save(draft / RECIPE)
        plan.save(draft / PLAN)
        if folder.exists():
            for name in (DS_CONFIG, ACCELERATE_YAML, LAUNCH_SCRIPT, RECIPE, PLAN):
                (draft / name).replace(folder / name)
        else:
            draft.rename(folder)


def _other_workload(plan: Plan, recipe: Recipe) -> str:
    asked, planned = recipe.workload.model_dump(), plan.workload.model_dump()
    differs = [f"{name}: recipe {asked[name]}, plan {planned[name]}" for name in asked if asked[name] != planned[name]]
    return f"the recipe's workload is not the plan's ({'; '.join(differs)}); plan again or change the recipe"
