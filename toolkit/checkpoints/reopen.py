"""The model in a checkpoint, without the engine that wrote it and without its ranks."""

from collections.abc import Iterator
from pathlib import Path

import torch

from toolkit.checkpoints.adapter import adapter_shapes
from toolkit.checkpoints.shard import Shards
from toolkit.checkpoints.store import altered_file, read_manifest
from toolkit.errors import CheckpointError
from toolkit.models.names import PEFT_PREFIX, model_name
from toolkit.models.pretrained import DTYPES
from toolkit.models.weights import WeightFiles
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.specs.trained import trained_weights


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
        self._dtype = DTYPES[self.plan.workload.weights]
        self._shards = Shards(folder, manifest.num_ranks)
        self._identity = manifest.identity
        work = self.plan.workload
        self._shapes = self.plan.model.weight_shapes
        self._trained = trained_weights(self.plan.model, work)
        self._adapters: dict[str, dict[str, tuple[int, ...]]] = {}
        if work.method != "full":
            for name, shape in adapter_shapes(self._shapes, self.recipe.lora, rank=work.lora_rank).items():
                self._adapters.setdefault(name.rpartition(".lora_")[0], {})[model_name(name)] = shape

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and whole weights in the precision of the forward pass."""
        base = self._base_weights() if len(self._trained) < len(self._shapes) else None
        for name in self._shapes:
            layer = f"{PEFT_PREFIX}{name.removesuffix('.weight')}"
            if name in self._trained:
                yield self._own(name)
                continue
            assert base is not None
            frozen = base.read(name, self._dtype)
            if layer in self._adapters:
                yield f"{layer}.base_layer.weight", frozen
                yield from self._adapters_of(layer)
            else:
                yield self._in_model(name), frozen

    def adapters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The adapters of a LoRA run, and what was trained beside them; the base model's weights are not read."""
        for layer in self._adapters:
            yield from self._adapters_of(layer)
        for name in self._shapes:
            if name in self._trained:
                yield self._own(name)

    def _base_weights(self) -> WeightFiles:
        """The weights that stayed frozen, or that the adapters were trained beside.

        Raises:
            CheckpointError: they are others now.
        """
        base = WeightFiles(self.recipe.model)
        base.check(self._shapes, added_rows=self.plan.model.added_rows)
        if (found := base.fingerprint()) != (trained := self._identity.get("base_weights")):
            beside, instead = "the rest was", ""
            if self._adapters:
                beside, instead = "the adapters were", ", or export the adapters alone with --adapter"
            raise CheckpointError(
                f"{self.recipe.model}: has other weights ({found}) than those that {beside} trained beside "
                f"({trained}); put these back{instead}"
            )
        return base

    def _adapters_of(self, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in self._adapters[layer].items():
            yield name, self._shards.weight(name, shape).to(self._dtype)

    def _own(self, name: str) -> tuple[str, torch.Tensor]:
        """A trained weight of the model's own."""
        known = self._in_model(name)
        return known, self._shards.weight(known, self._shapes[name]).to(self._dtype)

    def _in_model(self, name: str) -> str:
        return f"{PEFT_PREFIX}{name}" if self._adapters else name
