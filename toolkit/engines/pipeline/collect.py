"""What the stages hold together: whole weights one after the other on rank 0, and which tensors each stage trains."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

from toolkit.engines.common.sums import gather_objects
from toolkit.engines.common.tensors import Tensor, trained_tensors
from toolkit.engines.ds.tensor import gathered


def weights_of_all_stages(
    model: Any, stage: PipelineModule, topology: PipeModelDataParallelTopology, *, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights in the order of the whole model; only rank 0 gets any, all ranks take part.

    Args:
        model: the whole model; what other stages hold are placeholders with the shapes of whole weights.
        stage: what this rank holds of it.
        topology: of all ranks.
        device: where the process group works.
    """
    rank, place = dist.get_rank(), topology.get_coord(dist.get_rank())
    held = set(stage.parameters())
    names = gather_objects([name for name, parameter in _parameters(model) if parameter in held])
    stage_of = {
        name: topology.get_coord(holder).pipe for holder in reversed(range(len(names))) for name in names[holder]
    }
    for name, parameter in _parameters(model):
        sender = topology.get_rank(pipe=stage_of[name], data=0, model=0)
        if place.pipe == stage_of[name] and place.data == 0:
            with gathered(parameter):
                whole = parameter.detach().to("cpu", copy=True) if sender == 0 == rank else parameter.detach()
                if rank == sender != 0:
                    dist.send(whole.contiguous(), dst=0)
            if rank == sender == 0:
                yield name, whole
        elif rank == 0:
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            dist.recv(whole, src=sender)
            yield name, whole.to("cpu")


def stage_tensors(model: Any, stage: PipelineModule, whole_shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """The trained tensors of this rank's stage; a tied head is the first stage's to speak for."""
    grid = stage.mpu()
    tensors = trained_tensors(
        stage_parameters(model, stage),
        whole_shapes,
        group=grid.get_slice_parallel_group() if grid.get_slice_parallel_world_size() > 1 else None,
    )
    copied = _embedding_name(model) if _has_copied_head(model, stage) else None
    return [replace(tensor, replicated=True) if tensor.name == copied else tensor for tensor in tensors]


def stage_parameters(model: Any, stage: PipelineModule) -> list[tuple[str, torch.nn.Parameter]]:
    """What this rank's stage holds, by its names in the whole model; a tied head by that of the embedding."""
    held = set(stage.parameters())
    named = [(name, parameter) for name, parameter in _parameters(model) if parameter in held]
    if _has_copied_head(model, stage):
        named.append((_embedding_name(model), model.get_output_embeddings().weight))
    return named


def _has_copied_head(model: Any, stage: PipelineModule) -> bool:
    return bool(model.config.tie_word_embeddings) and stage.stage_id == stage.num_stages - 1


def _embedding_name(model: Any) -> str:
    return next(name for name, _ in _parameters(model) if name.endswith("embed_tokens.weight"))


def _parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """All of the whole model, the same names on every stage; a tied head is the first stage's embedding."""
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not (tied and name.endswith("lm_head.weight")):
            yield name, parameter
