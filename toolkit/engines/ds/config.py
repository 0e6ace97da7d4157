"""Reads the run's ds_config.json, which people edit by hand: what they changed is used and told, or refused by name."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from toolkit.engines.ds.precision import Numbers
from toolkit.errors import ConfigError, SpecError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.base import faults
from toolkit.specs.reading import read_json
from toolkit.specs.recipe import Recipe
from toolkit.specs.zero_plus_plus import ZeroPlusPlus


class _Part(BaseModel):
    """A part of the file that this engine acts on; all other keys are DeepSpeed's business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Offload(_Part):
    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None


class _Zero(_Part):
    stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: _Offload = _Offload()
    offload_param: _Offload = _Offload()
    zero_quantized_weights: StrictBool = False
    zero_quantized_gradients: StrictBool = False
    zero_hpz_partition_size: int = Field(default=1, ge=1)
    zero_quantized_nontrainable_weights: StrictBool = False

    @property
    def sends(self) -> ZeroPlusPlus:
        return ZeroPlusPlus(self.zero_quantized_weights, self.zero_quantized_gradients, self.zero_hpz_partition_size)


class _Tensor(_Part):
    autotp_size: int = Field(default=0, ge=0)
    vocab_parallel_lm_head: StrictBool = True


class _Pipeline(_Part):
    pipe_partitioned: StrictBool = True
    grad_partitioned: StrictBool = True
    activation_checkpoint_interval: int = 0


class _Read(Numbers):
    """The keys by their own names, with DeepSpeed's defaults where it has them."""

    train_micro_batch_size_per_gpu: int
    gradient_accumulation_steps: int
    # Its default went from 0 to 1.0 in DeepSpeed 0.19.3 (#8068): never left to the release.
    gradient_clipping: float = Field(ge=0, strict=True, allow_inf_nan=False)
    train_batch_size: int | None = None
    zero_optimization: _Zero = _Zero()
    tensor_parallel: _Tensor = _Tensor()
    pipeline: _Pipeline = _Pipeline()

    @property
    def offload(self) -> Literal["none", "optimizer", "all"]:
        zero = self.zero_optimization
        if zero.offload_param.device != "none":
            return "all"
        return "none" if zero.offload_optimizer.device == "none" else "optimizer"


@dataclass(frozen=True)
class DsConfig:
    """A checked ds_config: the file's content for DeepSpeed, and what the engine itself acts on."""

    content: dict[str, Any]
    """The file as it stands."""
    zero_stage: int
    """0-3."""
    offload: Literal["none", "optimizer", "all"]
    """What lives in host memory, or on a local disk."""
    swap_folder: Path | None
    """Where on the disk."""
    numbers: Numbers
    """How wide numbers are."""
    tp: int
    """Tensor-parallel ranks per replica."""
    gradient_clipping: float
    """Largest global norm, clipped by DeepSpeed; 0 clips nothing."""
    vocab_parallel: bool
    """Embedding and head are divided over the tensor-parallel ranks too."""
    sends: dict[str, Any]
    """Keys of ZeRO++ (planner/zero_plus_plus.py) that are on."""
    notes: tuple[str, ...]
    """Sentences about values that differ from the plan and are used as they stand in the file."""

    def with_recipe(self, recipe: Recipe) -> "DsConfig":
        """The same with what the recipe makes of it said.

        Where it clips in a way that DeepSpeed does not have, DeepSpeed clips nothing.
        """
        asked = ZeroPlusPlus.of(recipe.communication).keys
        sends = [f"ds_config.json: {key} is {value}" for key, value in self.sends.items() if asked.get(key) != value]
        clipping, told = recipe.clipping, (*self.notes, *sends, *self.numbers.notes(recipe))
        if clipping.kind == "norm":
            return replace(self, notes=(f"gradients clipped at {self.gradient_clipping}", *told))
        note = f"gradients clipped by {clipping.kind}, in the place of gradient_clipping {self.gradient_clipping}"
        content = {**self.content, "gradient_clipping": 0.0}
        return replace(self, content=content, notes=(note, *told))


def load_ds_config(folder: RunFolder, plan: Plan) -> DsConfig:
    """Read the ds_config.json beside the plan and check it against the plan.

    Raises:
        ConfigError: broken JSON (with its line), wrong values, or keys that contradict the plan; all of them at once.
    """
    path = folder.ds_config
    content = _content(path)
    autos = [f'`{key}` is "auto"; write the number, nothing fills it in here' for key in _autos(content)]
    try:
        read = _Read.model_validate(content)
        DeepSpeedZeroConfig(**content.get("zero_optimization", {}))
    except ValidationError as error:
        found = autos or faults(_Read if error.title == _Read.__name__ else DeepSpeedZeroConfig, error)
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in found)) from None
    if found := [*autos, *_contradictions(content, read, plan)]:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in found))
    swap_folder = _place_on_disk(content, folder)
    # Those that DeepSpeed has not been tried with; here each has its test against one process.
    content["zero_allow_untested_optimizer"] = True
    return DsConfig(
        content=content,
        zero_stage=read.zero_optimization.stage,
        offload=read.offload,
        swap_folder=swap_folder,
        numbers=read,
        tp=max(read.tensor_parallel.autotp_size, 1),
        vocab_parallel=read.tensor_parallel.vocab_parallel_lm_head,
        gradient_clipping=read.gradient_clipping,
        sends=read.zero_optimization.sends.keys,
        notes=_notes(read, plan, path),
    )


def _place_on_disk(content: dict[str, Any], folder: RunFolder) -> Path | None:
    """Make `nvme_path` absolute where something goes to a disk: relative paths lie in the run folder."""
    found = None
    for name in ("offload_optimizer", "offload_param"):
        section = content.get("zero_optimization", {}).get(name, {})
        if section.get("device") == "nvme":
            found = (folder.path / section["nvme_path"]).absolute()
            section["nvme_path"] = str(found)
    return found


def _content(path: Path) -> dict[str, Any]:
    again = "write it again with `toolkit plan ... --overwrite`"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; {again}")
    try:
        return read_json(path, remedy=f"mend it, or {again}")
    except SpecError as error:
        raise ConfigError(str(error)) from None


def _contradictions(content: dict[str, Any], read: _Read, plan: Plan) -> list[str]:
    strategy = plan.strategy
    found = []
    for key, planned in (
        ("train_micro_batch_size_per_gpu", strategy.micro_batch),
        ("gradient_accumulation_steps", strategy.grad_accum),
    ):
        # The sampler follows the plan: another number here would silently change the global batch.
        if (given := getattr(read, key)) != planned:
            found.append(f"`{key}` is {given}, the plan has {planned}; plan again with --micro-batch/--global-batch")
    found += _zero_contradictions(read, plan) if strategy.engine == "zero" else _pipeline_contradictions(read, plan)
    found += _disk_contradictions(read.zero_optimization)
    found += _sending_contradictions(read.zero_optimization, plan)
    found += read.contradictions(plan, stage=read.zero_optimization.stage, offloads=read.offload != "none")
    for key, section in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if key in content:
            found.append(f"`{key}` is not read here; remove it and set `{section}` in recipe.yaml")
    return found


def _zero_contradictions(read: _Read, plan: Plan) -> Iterator[str]:
    given, layout = max(read.tensor_parallel.autotp_size, 1), plan.strategy.layout
    if given != layout.tp:
        yield f"`tensor_parallel.autotp_size` is {given}, the plan has tp={layout.tp}; plan again with --tp {given}"
    if layout.tp > 1 and read.zero_optimization.stage == 0:
        # DeepSpeed's stage 0 clips by the norm of one rank's part.
        yield "`zero_optimization.stage` is 0, tensor parallelism runs with 1, 2 and 3; use one of them"
    if layout.dp == plan.world_size:
        yield from _batch_contradiction(read, plan)
    elif read.train_batch_size is not None:
        yield "`train_batch_size` counts the ranks of one replica as replicas in DeepSpeed; remove the key"


def _pipeline_contradictions(read: _Read, plan: Plan) -> Iterator[str]:
    yield from _batch_contradiction(read, plan)
    if (stage := read.zero_optimization.stage) != 1:
        # Stage 0 clips each pipeline stage by its own norm; DeepSpeed refuses 2 and 3 with an AssertionError.
        yield f"`zero_optimization.stage` is {stage}, pipelines run with 1 only; use 1"
    if read.tensor_parallel.autotp_size > 1:
        yield "`tensor_parallel` is not read with engine=pipeline, which cuts its layers itself; remove the section"
    if plan.strategy.layout.tp > 1 and (read.pipeline.pipe_partitioned or read.pipeline.grad_partitioned):
        # DeepSpeed keeps the shapes of the first micro-batch for all.
        yield "`pipeline.pipe_partitioned` and `grad_partitioned` must be false: micro-batches differ in width"
    if read.pipeline.activation_checkpoint_interval:
        yield "`pipeline.activation_checkpoint_interval` is not read; remove it and plan again with --checkpointing"


def _disk_contradictions(zero: _Zero) -> Iterator[str]:
    for name, part in (("offload_optimizer", zero.offload_optimizer), ("offload_param", zero.offload_param)):
        if part.device == "nvme" and part.nvme_path is None:
            yield f"`zero_optimization.{name}.nvme_path` is missing; name a folder on the local disk"
        if part.device == "nvme" and zero.stage != 3:
            yield f"`zero_optimization.{name}.device` is nvme, which ZeRO-3 alone can; use cpu, or stage 3"


def _sending_contradictions(zero: _Zero, plan: Plan) -> Iterator[str]:
    for fault in plan.sending_faults(zero.sends, zero_stage=zero.stage):
        yield f"`zero_optimization`: {fault}"
    if zero.zero_quantized_nontrainable_weights:
        yield "`zero_optimization.zero_quantized_nontrainable_weights` would be exported in 8 bits; remove the key"


def _batch_contradiction(read: _Read, plan: Plan) -> Iterator[str]:
    if read.train_batch_size not in (None, (product := plan.workload.global_batch)):
        yield f"`train_batch_size` is {read.train_batch_size}, needs {product}; remove the key"


def _notes(read: _Read, plan: Plan, path: Path) -> tuple[str, ...]:
    planned = plan.strategy
    checks = [
        ("zero_optimization.stage", read.zero_optimization.stage, planned.zero_stage),
        ("gradient_clipping", read.gradient_clipping, plan.gradient_clipping),
        ("precision", read.precision, plan.workload.precision),
        ("offload", read.offload, planned.offload),
    ]
    notes = [f"ds_config.json: {key} is {given}, planned {was}" for key, given, was in checks if given != was]
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if named and Path(named).resolve() != path.resolve():
        notes.append(f"accelerate.yaml names {named}; used is {path}, which lies beside the plan")
    return tuple(notes)


def _autos(content: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in content.items():
        if value == "auto":
            found.append(prefix + key)
        elif isinstance(value, dict):
            found += _autos(value, f"{prefix}{key}.")
    return found
