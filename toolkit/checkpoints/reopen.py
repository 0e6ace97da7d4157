"""The model in a checkpoint, without the engine that wrote it and without its ranks."""

from collections.abc import Iterator
from pathlib import Path

import torch

from toolkit.checkpoints.adapter import adapter_shapes
from toolkit.checkpoints.shard import Shards
from toolkit.checkpoints.store import altered_file, read_manifest
from toolkit.errors import CheckpointError
from toolkit.models.lora import ADAPTER_NAME, PEFT_PREFIX
from toolkit.models.pretrained import DTYPES
from toolkit.models.weights import WeightFiles
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe


class SavedModel:
    """Gives the weights of a checkpoint one by one, as the engine would have.

    Args:
        folder: of the checkpoint; every file of it is read and compared with the manifest first.

    Raises:
        CheckpointError: it is not intact.
    """

    rank = 0

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if fault := altered_file(folder, manifest, part=0, parts=1):
            raise CheckpointError(fault)
        self.plan, self.recipe = Plan.load(folder / "plan.json"), Recipe.load(folder / "recipe.yaml")
        self.step = manifest.progress.step
        self._dtype = DTYPES[self.plan.workload.precision]
        self._shards = Shards(folder, manifest.num_ranks)
        self._identity = manifest.identity
        lora, rank = self.recipe.lora, self.recipe.workload.lora_rank
        self._adapter_shapes = adapter_shapes(self.plan.model.weight_shapes, lora.targets, rank)

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and whole weights in the precision of the forward pass."""
        if self.plan.workload.method == "full":
            for name, shape in self.plan.model.weight_shapes.items():
                yield name, self._shards.weight(name, shape).to(self._dtype)
            return
        base = self._base_weights()
        adapted = {name.rpartition(".lora_")[0] for name in self._adapter_shapes}
        for name in self.plan.model.weight_shapes:
            layer = f"{PEFT_PREFIX}{name.removesuffix('.weight')}"
            if layer in adapted:
                yield f"{layer}.base_layer.weight", base.read(name, self._dtype)
                yield from self._adapters_of(layer)
            else:
                yield f"{PEFT_PREFIX}{name}", base.read(name, self._dtype)

    def adapters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The adapters of a LoRA run alone; the base model's weights are not read."""
        for layer in dict.fromkeys(name.rpartition(".lora_")[0] for name in self._adapter_shapes):
            yield from self._adapters_of(layer)

    def _base_weights(self) -> WeightFiles:
        """The weights that the adapters were trained beside.

        Raises:
            CheckpointError: they are others now.
        """
        base = WeightFiles(self.recipe.model)
        base.check(self.plan.model.weight_shapes)
        if (found := base.fingerprint()) != (trained := self._identity.get("base_weights")):
            raise CheckpointError(
                f"{self.recipe.model}: has other weights ({found}) than those that the adapters were trained beside "
                f"({trained}); put these back, or export the adapters alone with --adapter"
            )
        return base

    def _adapters_of(self, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
        for part in ("lora_A", "lora_B"):
            name = f"{layer}.{part}.{ADAPTER_NAME}.weight"
            yield name, self._shards.weight(name, self._adapter_shapes[f"{layer}.{part}.weight"]).to(self._dtype)
