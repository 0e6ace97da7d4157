"""The model as DeepSpeed's PipelineModule, each rank with the layers of its own stage."""

import contextlib
import io
from collections.abc import Callable

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

from toolkit.engines.common.labels import Supervised
from toolkit.engines.common.sums import own_group
from toolkit.engines.ds.tensor import TensorCuts
from toolkit.errors import EngineError
from toolkit.models.stages import Body, Embedding, Head, Norm, layer_ranges
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan

Loss = Callable[[torch.Tensor, Supervised], torch.Tensor]


def topology_of(plan: Plan) -> PipeModelDataParallelTopology:
    """Which rank is where: stage by stage, in it replica by replica, tensor-parallel ranks next to each other."""
    layout = plan.strategy.layout
    return PipeModelDataParallelTopology(num_pp=layout.pp, num_mp=layout.tp, num_dp=layout.dp)


def pipeline_module(
    model: UnloadedModel,
    *,
    topology: PipeModelDataParallelTopology,
    stages: tuple[int, ...],
    loss: Loss,
    alpha: float | None = None,
) -> PipelineModule:
    """Read this rank's stage and wrap it.

    Args:
        model: with its weights on disk.
        topology: of all ranks.
        stages: decoder layers of each stage.
        loss: of what the last stage gives, the hidden states before the head, and of the tokens that count.
        alpha: of the noise on embeddings, where there is any.

    Raises:
        EngineError: DeepSpeed divides the layers in another way than asked for.
    """
    cuts = _tensor_cuts(model, topology)

    def read(part: torch.nn.Module) -> None:
        model.fill(part)
        if cuts is not None:
            cuts.cut(part)

    bodies = [LayerSpec(Body, model, read, layers) for layers in layer_ranges(stages)]
    layers = [_embedding(model, read, alpha), *bodies, LayerSpec(Norm, model, read), _head(model, read)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every layer of every stage
        module = PipelineModule(
            layers=layers,
            topology=topology,
            loss_fn=loss,
            # One body per stage; what is no body costs nothing and goes with its neighbour.
            partition_method="type:^Body$",
            # Every micro-batch is as wide as its longest row.
            dynamic_shape=True,
        )
    expected = [0, *range(2, len(stages) + 1), len(layers)]
    if list(module.parts) != expected:
        raise EngineError(f"DeepSpeed divides the layers at {list(module.parts)}, the plan needs {expected}")
    return module


def _tensor_cuts(model: UnloadedModel, topology: PipeModelDataParallelTopology) -> TensorCuts | None:
    if topology.get_dim("model") == 1:
        return None
    return TensorCuts(model.base, own_group(topology.get_axis_comm_lists("model")), vocab=True)


def _embedding(model: UnloadedModel, read: Callable[[torch.nn.Module], None], alpha: float | None) -> LayerSpec:
    if not model.base.config.tie_word_embeddings:
        return LayerSpec(Embedding, model, read, alpha)
    return TiedLayerSpec("embedding", Embedding, model, read, alpha, tied_weight_attr=["embed_tokens.weight"])


def _head(model: UnloadedModel, read: Callable[[torch.nn.Module], None]) -> LayerSpec:
    if not model.base.config.tie_word_embeddings:
        return LayerSpec(Head, model, read)
    return TiedLayerSpec("embedding", Head, model, read, tied_weight_attr=["lm_head.weight"])
