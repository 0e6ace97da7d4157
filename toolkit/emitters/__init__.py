"""Plan -> files: a run folder that `toolkit launch`, `accelerate launch` or launch.sh starts."""

import json
import shutil
import tempfile
from pathlib import Path

from toolkit.emitters.accelerate_yaml import accelerate_yaml
from toolkit.emitters.command import launch_command, launch_script
from toolkit.emitters.ds_config import ds_config
from toolkit.emitters.megatron_args import megatron_args
from toolkit.errors import ConfigError
from toolkit.planner.api import for_recipe
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.specs.zero_plus_plus import ZeroPlusPlus

__all__ = ["accelerate_yaml", "ds_config", "emit", "launch_command", "launch_script", "megatron_args"]


def emit(plan: Plan, folder: Path | str, recipe: Recipe, *, overwrite: bool = False, for_now: bool = False) -> Path:
    """Write plan.json, accelerate.yaml, recipe.yaml, launch.sh and ds_config.json, or megatron_args.sh in its place
    where no DeepSpeed runs the step, into `folder`; all of them or none.

    With `overwrite` the five files of an earlier run are replaced. The results of a finished run go, as they belong to
    another plan; what a run that was interrupted needs to go on stays, as it may go on with another plan.

    Raises:
        ConfigError: the folder holds a run or cannot be written, or the recipe asks for another workload, for what the
            plan's engine does not do, or for a communication that the plan has no place for.
    """
    folder = Path(folder)
    plan.check_workload(recipe.workload, folder)
    sending, stage = recipe.communication, plan.strategy.zero_stage
    others = plan.sending_faults(ZeroPlusPlus.of(sending), zero_stage=stage)
    plan.check_communication(sending, zero_stage=stage, others=others)
    plan.check_recipe(recipe, zero_stage=stage)
    plan = for_recipe(plan, recipe)
    run = RunFolder(folder)
    # A folder with one of these holds a run.
    found = [mark.name for mark in (run.plan, run.telemetry) if mark.exists()]
    if found and not overwrite:
        raise ConfigError(f"{folder} already holds a run ({', '.join(found)}); name another folder or add --overwrite")
    try:
        _write(plan, folder, recipe)
        run.remove_results(all_of_them=run.finished)
        if not for_now:
            shutil.rmtree(run.planned, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name a folder you may write to") from None
    return folder


def _write(plan: Plan, folder: Path, recipe: Recipe) -> None:
    """Everything into a sibling folder first: on one file system every move is atomic; plan.json, the mark, is last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # A folder inside: mkdtemp's own is closed to others, this one gets what the umask gives any folder.
        draft = RunFolder(Path(scratch) / "run")
        draft.path.mkdir()
        engine = _write_engine_config(plan, draft, recipe)
        text = accelerate_yaml(plan, ds_config_path=str(RunFolder(folder).ds_config))
        draft.accelerate.write_text(text, encoding="utf-8")
        draft.script.write_text(launch_script(plan), encoding="utf-8")
        # Executable for those who may read it, which is the umask's business.
        mode = draft.script.stat().st_mode
        draft.script.chmod(mode | (mode & 0o444) >> 2)
        recipe.save(draft.recipe)
        plan.save(draft.plan)
        if folder.exists():
            for file in (engine, draft.accelerate, draft.script, draft.recipe, draft.plan):
                file.replace(folder / file.name)
            # Another engine's, of the run that was here.
            for file in {draft.ds_config, draft.megatron_args} - {engine}:
                (folder / file.name).unlink(missing_ok=True)
        else:
            draft.path.rename(folder)


def _write_engine_config(plan: Plan, draft: RunFolder, recipe: Recipe) -> Path:
    """The file that is about the plan's engine alone."""
    if not plan.strategy.on_deepspeed:
        draft.megatron_args.write_text(megatron_args(plan, recipe), encoding="utf-8")
        return draft.megatron_args
    config = ds_config(plan, ZeroPlusPlus.of(recipe.communication))
    draft.ds_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return draft.ds_config
