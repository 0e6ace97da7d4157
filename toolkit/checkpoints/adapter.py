"""The adapters of a LoRA run alone, as peft itself saves them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from toolkit.checkpoints.check import check_export, damaged
from toolkit.checkpoints.publish import published
from toolkit.models.names import MAGNITUDE, PEFT_PREFIX, saved_name
from toolkit.planner.plan import Plan
from toolkit.specs.lora import LoraConfig
from toolkit.specs.model_source import weights_source
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import ENDS, trained_weights

_EMBEDDING, _TIED_HEAD = (f"{PEFT_PREFIX}{name}" for name in ENDS.values())


class Adapters:
    """Keeps the adapters of a stream of weights, and writes them.

    Args:
        target: folder to make; must not exist.
        plan: knows the adapted layers' shapes and the rank.
        recipe: which layers are adapted, how, and of which model.
    """

    def __init__(self, target: Path, plan: Plan, recipe: Recipe) -> None:
        self._target, self._recipe, self._rank = target, recipe, plan.workload.lora_rank
        shapes, own = plan.model.weight_shapes, trained_weights(plan.model, plan.workload)
        self._own = {f"{PEFT_PREFIX}{name}": shapes[name] for name in shapes if name in own}
        self._expected = {**adapter_shapes(shapes, recipe.lora, rank=self._rank), **self._own}
        self._tied = plan.model.tied_embeddings
        self._kept: dict[str, torch.Tensor] = {}

    def kept_of(self, weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """All of the stream; its adapters, which are small, and what was trained beside them stay in memory.

        They are checked before they are merged: of a merged weight nobody could tell what was wrong with its adapter.

        Raises:
            CheckpointError: an adapter is missing, empty, misshapen or not finite.
        """
        for name, tensor in weights:
            if ".lora_" in name or name in self._own:
                self._keep(saved_name(name), tensor)
            yield name, tensor
        if missing := sorted(self._expected.keys() - self._kept.keys()):
            raise damaged(self._target, [f"{name} is missing" for name in missing])

    def write(self) -> None:
        """Make the folder out of what was kept.

        Raises:
            CheckpointError: the disk is full, or what was read back is not what was kept; then there is no folder.
        """
        # peft is there already where a run adapts; importing it takes seconds where none does.
        from toolkit.models.lora import peft_config

        with published(self._target) as partial:
            config, expected = peft_config(self._recipe.lora, rank=self._rank), self._expected
            config.base_model_name_or_path = weights_source(self._recipe.model)
            config.inference_mode = True  # as peft saves it: whoever loads the adapters gets them frozen
            config.target_modules = sorted(self._recipe.lora.targets)  # peft's set has another order in every run
            tensors = {name: tensor.contiguous() for name, tensor in self._kept.items()}
            if self._own:
                config.modules_to_save = sorted(name.split(".")[-2] for name in self._own)
            if self._own and self._tied:
                # One matrix in two places: without the note peft trains and loads the embedding alone (peft #2777).
                config.ensure_weight_tying = True
                tensors[_TIED_HEAD] = tensors[_EMBEDDING].clone()
                expected = {**expected, _TIED_HEAD: expected[_EMBEDDING]}
            config.save_pretrained(str(partial))
            save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
            check_export(partial, expected)

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        shape, needed = tuple(tensor.shape), self._expected.get(name)
        partner = name.replace(".lora_B.", ".lora_A.")
        faults = []
        if needed is None:
            faults.append(f"{name} is not part of the model")
        elif shape != needed:  # those that ZeRO-3 had not gathered would be empty (peft #2892)
            faults.append(f"{name} has shape {shape}, needs {needed}")
        if not bool(torch.isfinite(tensor).all()):
            faults.append(f"{name} holds NaN or Inf")
        if partner != name and partner not in self._kept:
            faults.append(f"{partner} is missing")
        if faults:
            raise damaged(self._target, faults)
        self._kept[name] = tensor


def adapter_shapes(
    weights: Mapping[str, tuple[int, ...]], config: LoraConfig, *, rank: int
) -> dict[str, tuple[int, ...]]:
    """Shape of each adapter by the name that peft gives it in a file, in the order of a model.

    Args:
        weights: shapes of the model's own tensors by name.
        config: says which linear layers are adapted, and how.
        rank: of the adapters.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer.rpartition(".")[2] in config.targets:
            outputs, inputs = shape
            shapes[f"{PEFT_PREFIX}{layer}.lora_A.weight"] = (rank, inputs)
            shapes[f"{PEFT_PREFIX}{layer}.lora_B.weight"] = (outputs, rank)
            if config.dora:
                shapes[f"{PEFT_PREFIX}{layer}{MAGNITUDE}"] = (outputs,)
    return shapes
