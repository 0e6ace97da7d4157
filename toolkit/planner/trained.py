"""How many of a model's own parameters a run trains, where that is neither all nor none of them."""

import math
from typing import NamedTuple

from typing_extensions import Self

from toolkit.specs.model import ModelSpec
from toolkit.specs.trained import ENDS, trained_weights
from toolkit.specs.workload import Workload


class Trained(NamedTuple):
    """Parameters that get a gradient, by where they are; adapters are not among them."""

    layers: tuple[int, ...]
    """Of each decoder layer."""
    embedding: int
    norm: int
    """Of the norm after the last layer."""
    head: int
    """0 where it is the embedding's own matrix."""

    @classmethod
    def of(cls, model: ModelSpec, workload: Workload) -> Self | None:
        """Of a run; None where `full` trains everything, and adapters nothing beside themselves."""
        if not (workload.freeze or workload.train_only or workload.modules_to_save):
            return None
        names, shapes = trained_weights(model, workload), model.weight_shapes
        sizes = {name: math.prod(shapes[name]) for name in names}
        layers = tuple(
            sum(sizes.get(f"model.layers.{layer}.{name}", 0) for name in model.layer_shapes)
            for layer in range(model.num_layers)
        )
        embedding, head = (sizes.get(name, 0) for name in ENDS.values())
        return cls(layers, embedding, sizes.get("model.norm.weight", 0), head)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.layers) + self.embedding + self.norm + self.head
