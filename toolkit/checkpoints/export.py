"""One Hugging Face folder out of any layout: streamed, checked after writing, published by one rename."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from toolkit.checkpoints.adapter import Adapters
from toolkit.checkpoints.check import check_export
from toolkit.checkpoints.merge import merge_lora
from toolkit.checkpoints.publish import published
from toolkit.models.config import load_config, load_generation
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe

# Hugging Face's own default; large enough for few files, small enough to hold one in memory.
_SHARD_BYTES = 5 * 1024**3
_INDEX = "model.safetensors.index.json"

Weights = Iterator[tuple[str, torch.Tensor]]


class Source(Protocol):
    """What holds a fine-tuned model: an engine, or a checkpoint."""

    @property
    def rank(self) -> int:
        """Only rank 0 writes."""

    def full_state(self) -> Weights:
        """As `Engine.full_state`."""


class Targets(NamedTuple):
    """Folders to make; none of them may exist."""

    model: Path
    """Whole weights, adapters merged."""
    adapter: Path | None
    """The adapters of a LoRA run alone; None where they are not asked for."""


def export(
    source: Source,
    targets: Targets,
    *,
    plan: Plan,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    stop_token_ids: Sequence[int],
) -> None:
    """Write the fine-tuned model for plain `transformers`, and a LoRA run's adapters for peft; all ranks call it.

    Neither folder appears before the files of both were read back and found whole.

    Args:
        source: gives the weights one by one, once; at most one shard and the adapters are held at a time.
        targets: made by rank 0.
        plan: knows the shapes that the model must have.
        recipe: names the model that was fine-tuned (its config is taken over) and how it is adapted.
        tokenizer: saved along, with the chat template of the training.
        stop_token_ids: tokens that end an answer, for the generation config.

    Raises:
        CheckpointError: the disk is full, or what was written is not what the config describes.
    """
    weights = source.full_state()
    if source.rank != 0:
        for _ in weights:  # gathering is collective: this rank takes part, and gets nothing
            pass
        return
    adapters = None
    if recipe.workload.method != "full":
        adapters = Adapters(targets.adapter or targets.model, plan, recipe)
        weights = merge_lora(
            adapters.kept_of(weights), scale=recipe.lora.scale(recipe.workload.lora_rank), dora=recipe.lora.dora
        )
    with published(targets.model) as partial:
        dtype = _write_weights(weights, partial)
        _write_config(partial, base=recipe.model, dtype=dtype, vocab_size=plan.model.vocab_size)
        _write_generation(partial, base=recipe.model, stop_token_ids=stop_token_ids, pad=tokenizer.pad_token_id)
        tokenizer.save_pretrained(partial)
        check_export(partial, plan.model.weight_shapes)
        if adapters is not None and targets.adapter is not None:
            adapters.write()  # in here: a full disk leaves neither folder


def export_adapter(weights: Weights, target: Path, *, plan: Plan, recipe: Recipe) -> None:
    """Write the adapters of a LoRA run alone.

    Raises:
        CheckpointError: as `export`.
    """
    adapters = Adapters(target, plan, recipe)
    for _ in adapters.kept_of(weights):
        pass
    adapters.write()


def _write_weights(weights: Weights, folder: Path) -> torch.dtype:
    """Write shards and, for more than one, their index; gives the dtype of the weights."""
    names: list[list[str]] = []
    total_bytes = 0
    dtype = torch.float32
    for shard in _shards(weights):
        names.append(sorted(shard))
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
        dtype = next(iter(shard.values())).dtype
        save_file(shard, folder / f"shard-{len(names)}.safetensors", metadata={"format": "pt"})
    _name_shards(folder, names, total_bytes)
    return dtype


def _shards(weights: Weights) -> Iterator[dict[str, torch.Tensor]]:
    """Group the stream into files of at most _SHARD_BYTES."""
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in weights:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > _SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = tensor.contiguous()
    if shard:
        yield shard


def _name_shards(folder: Path, names: list[list[str]], total_bytes: int) -> None:
    if len(names) == 1:
        (folder / "shard-1.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(names, start=1):
        file = f"model-{number:05d}-of-{len(names):05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(folder: Path, *, base: str, dtype: torch.dtype, vocab_size: int) -> None:
    config = load_config(base)
    config.dtype, config.vocab_size = dtype, vocab_size
    config.save_pretrained(folder)


def _write_generation(folder: Path, *, base: str, stop_token_ids: Sequence[int], pad: int) -> None:
    """The base model's way to generate, stopping where the training's answers end."""
    generation = load_generation(base)
    generation.eos_token_id = list(stop_token_ids)
    generation.pad_token_id = pad
    try:
        generation.save_pretrained(folder)
    except ValueError:
        # Llama-2's own file sets a temperature without do_sample, which transformers reads but will not write.
        generation.do_sample = True
        generation.save_pretrained(folder)
