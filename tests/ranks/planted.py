"""What silently goes wrong elsewhere, planted in real runs: bodies of ranks that tell what preflight says of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ranks.runs import open_engine
from toolkit.data.loader import GlobalBatches
from toolkit.engines import engine_for
from toolkit.errors import ToolkitError
from toolkit.models.build import build_model
from toolkit.models.pretrained import count_parameters, load_tokenizer
from toolkit.planner.plan import Plan
from toolkit.preflight.copy_rank import trained
from toolkit.preflight.run import preflight
from toolkit.preflight.setting import Setting
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.training.rows import prepared_data, share_of, training_batches


def setting_of(folder: Path, *, freeze: str = "") -> Setting:
    """As finetune.py makes it; `freeze`: adapters of that name are lost between counting and preparation."""
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    data = prepared_data(recipe, load_tokenizer(recipe.model, plan.model, plan.workload.new_tokens))
    model = build_model(plan, recipe)
    trainable, _ = count_parameters(model.module)
    for name, parameter in model.module.named_parameters():
        if freeze and freeze in name:
            parameter.requires_grad_(False)
    engine = engine_for(plan, recipe, model=model, folder=run)
    batches = training_batches(recipe, data, share=share_of(plan, engine))
    return Setting(plan, recipe, run, engine, data, batches, trainable)


def told(setting: Setting) -> str:
    """What preflight ends with; empty where it lets the run go on."""
    try:
        preflight(setting)
    except ToolkitError as error:
        return f"{type(error).__name__} {error}"
    return ""


def nothing_planted(folder: Path) -> str:
    """A run as it is."""
    setting = setting_of(folder)
    found = told(setting)
    setting.engine.close()
    return found


def wrong_rows(folder: Path) -> dict[str, str]:
    """Several faults of what ranks are fed, one after the other on the same engine."""
    setting = setting_of(folder)
    share = share_of(setting.plan, setting.engine)

    def fed_by(**changes: Any) -> Setting:
        return replace(setting, batches=training_batches(setting.recipe, setting.data, share=replace(share, **changes)))

    unlabelled = setting.data.train.map(lambda row: {"labels": [-100] * len(row["labels"])}, keep_in_memory=True)
    masked = replace(setting, data=replace(setting.data, train=unlabelled))
    masked = replace(masked, batches=training_batches(masked.recipe, masked.data, share=share))
    per_rank = property(lambda batches: 2 * -(-len(batches._lengths) // share.global_batch))
    found = {
        "same": told(fed_by(dp_rank=0)),
        "doubled": told(fed_by(grad_accum=2 * share.grad_accum)),
        "masked": told(masked),
    }
    with mock.patch.object(GlobalBatches, "steps_per_epoch", per_rank):
        found["schedule"] = told(setting)
    free = mock.Mock(free=1000)
    with mock.patch("toolkit.preflight.room.shutil.disk_usage", return_value=free):
        found["disk"] = told(setting)
    setting.engine.close()
    return found


def lost_adapters(folder: Path) -> str:
    """Half of the adapters no longer train once the engine has the model."""
    setting = setting_of(folder, freeze="lora_A")
    found = told(setting)
    setting.engine.close()
    return found


def rounded_masters(folder: Path) -> str:
    """bf16 states, in a run that was planned with fp32 ones."""
    with mock.patch("toolkit.engines.ds.precision.Numbers.contradictions", return_value=iter(())):
        setting = setting_of(folder)
    found = told(setting)
    setting.engine.close()
    return found


def random_weights(folder: Path) -> tuple[str, str]:
    """What the engine reads is not what the checkpoint holds; told with the plain model beside it, and without."""

    def drawn(_self: Any, _name: str, dtype: torch.dtype) -> torch.Tensor:
        shape = _self.shapes[_name]
        return (torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.3).to(dtype)

    with mock.patch("toolkit.models.weights.WeightFiles.read", drawn):
        setting = setting_of(folder)
    compared = told(setting)
    with mock.patch("toolkit.models.plain._MOST_BYTES", 0):
        alone = told(setting)
    setting.engine.close()
    return compared, alone


def another_default(folder: Path) -> str:
    """DeepSpeed takes its own default for the clipping, as it has changed between releases."""
    with mock.patch("deepspeed.runtime.engine.DeepSpeedEngine.gradient_clipping", return_value=0.0):
        setting = setting_of(folder)
    found = told(setting)
    setting.engine.close()
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """A process group of this rank only: what accelerate makes on CPUs where nobody asks for gloo."""
    dist.destroy_process_group()
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}.store", rank=0, world_size=1)
        with mock.patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}):
            yield


def separate_copies(folder: Path) -> str:
    """Every process trains by itself, and the engine's own look at that is put out."""
    with _alone(), mock.patch("toolkit.engines.ds.processes.check_world"):
        return told(setting_of(folder))


def open_alone(folder: Path) -> str:
    """The same with that look."""
    with _alone():
        try:
            open_engine(folder)
        except ToolkitError as error:
            return str(error)
    return ""


def copy_of(folder: Path, *plants: tuple[str, Any]) -> dict[str, Any]:
    """The tiny copy in its layout, with faults in the engine: parts of it and what is in their place."""
    with ExitStack() as stack:
        for part, instead in plants:
            stack.enter_context(mock.patch(part, instead))
        return trained(RunFolder(folder), one_process=False)


def copy_alone(folder: Path) -> dict[str, Any]:
    """The same in one process, and without an engine."""
    return trained(RunFolder(folder), one_process=True)


def of_own_labels(_engine: Any, _supervised: Any, shares: Any) -> torch.Tensor:
    """In the place of the engine's factor on the loss: the mean of the ranks' means."""
    return torch.tensor(len(shares) / max(sum(share.num_supervised for share in shares), 1))


def twice_the_rate(groups: Any, rate: float) -> None:
    """In the place of the engine's own: a schedule that has moved on once for each rank."""
    for group in groups:
        group["lr"] = 2 * rate * group["learning_rate_ratio"]
