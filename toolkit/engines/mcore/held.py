"""Megatron's tensors on this rank, and what of the model's they are: to fill them, and to gather them."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import RowParallelLinear, set_tensor_model_parallel_attributes
from megatron.core.transformer.transformer_config import TransformerConfig

from toolkit.engines.common.sums import gather_objects
from toolkit.engines.common.tensors import sums_of_bits
from toolkit.engines.mcore import lora
from toolkit.engines.mcore.model import Llama
from toolkit.engines.mcore.place import Place
from toolkit.engines.mcore.table import EMBEDDING, ENDS, HEAD, LAYER, Cut, Row, Segment, segments
from toolkit.errors import EngineError
from toolkit.models.names import plain_name
from toolkit.models.unloaded import UnloadedModel
from toolkit.specs.model import ModelSpec


@dataclass(frozen=True)
class Held:
    """One of Megatron's tensors on this rank."""

    parameter: torch.nn.Parameter
    segments: tuple[Segment, ...]
    """What it holds, in the order of its numbers."""
    replicated: bool
    """Another rank of this replica holds the same, and speaks for it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it has parts of."""
        return tuple(dict.fromkeys(segment.name for segment in self.segments))

    def cut(self, name: str) -> torch.Tensor:
        """This rank's cut of a tensor, a copy with the tensor's dimensions."""
        own = [segment for segment in self.segments if segment.name == name]
        flat = self.parameter.detach().view(-1)
        joined = torch.cat([flat[one.offset : one.offset + one.stop - one.start] for one in own])
        first = own[0]
        return joined.view(*first.shape[: first.dim], first.high - first.low, *first.shape[first.dim + 1 :])

    @torch.no_grad()
    def fill(self, name: str, whole: torch.Tensor) -> None:
        """Take this rank's cut of a whole tensor."""
        flat = self.parameter.detach().view(-1)
        for segment in self.segments:
            if segment.name == name:
                cut = whole.narrow(segment.dim, segment.low, segment.high - segment.low).flatten()
                end = segment.offset + segment.stop - segment.start
                flat[segment.offset : end].copy_(cut[segment.start : segment.stop])


def held_tensors(chunks: Sequence[Llama], model: UnloadedModel, spec: ModelSpec, *, place: Place) -> list[Held]:
    """All tensors of this rank's chunks, marked as Megatron needs them.

    Args:
        chunks: of this rank, with adapters where the model has some.
        model: whose names and shapes count.
        spec: of the model.
        place: of this rank.
    """
    known = {plain_name(name): (name, parameter) for name, parameter in model.module.named_parameters()}
    cut, tensors = Cut(place.num_tp, place.tp), []
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            row = _row_of(name, chunk)
            copied = row.names == (HEAD,) and spec.tied_embeddings
            names = (EMBEDDING,) if copied else row.names
            found = [known[one] for one in names]
            shapes = [tuple(tensor.shape) for _, tensor in found]
            row = row._replace(names=tuple(one for one, _ in found))
            replicated = copied or (row.dim is None and place.tp > 0)
            tensors.append(Held(parameter, tuple(segments(row, shapes, spec, cut=cut)), replicated))
            _mark(parameter, row.dim, trains={one: tensor.requires_grad for one, tensor in found})
    return tensors


def _mark(parameter: torch.nn.Parameter, dim: int | None, *, trains: Mapping[str, bool]) -> None:
    """Say of a parameter whether it trains, and that it is cut.

    Megatron marks what it initialises; without the mark a norm under tensor parallelism counts one rank's part only:
    2.21 where it is 3.19 (mended after 0.16.1, Megatron-LM#4084).

    Raises:
        EngineError: it holds tensors that train and others that do not.
    """
    if len(set(trains.values())) > 1:
        names = " and ".join(trains)
        raise EngineError(f"{names} are one tensor of Megatron's; train or freeze all of them, or use engine=zero")
    parameter.requires_grad_(all(trains.values()))
    if dim is not None and not hasattr(parameter, "tensor_model_parallel"):
        set_tensor_model_parallel_attributes(parameter, True, dim, 1)


def _row_of(name: str, chunk: Llama) -> Row:
    """Of one of Megatron's parameters, with names of the whole model."""
    if not name.startswith("decoder.layers."):
        return ENDS[name]
    _, _, number, inside = name.split(".", 3)
    prefix = f"model.layers.{chunk.decoder.layers[int(number)].layer_number - 1}."
    if ".adapters." not in inside:
        row = LAYER[inside.replace(".base.", ".")]
        return row._replace(names=tuple(prefix + one for one in row.names))
    linear, _, rest = inside.partition(".adapters.")
    adapted, _, which = rest.partition(".")
    row = LAYER[f"{linear}.weight"]
    layer = next(one for one in row.names if one.endswith(f".{adapted}.weight")).removesuffix(".weight")
    is_a = which == "lora_A"
    # A sees the layer's input, B gives its output: one of the two is cut as the layer is.
    dim = row.dim if is_a == (row.dim == 1) else None
    return Row((f"{prefix}{layer}.{lora.A if is_a else lora.B}",), dim=dim)


def add_adapters(chunk: Llama, model: UnloadedModel, spec: ModelSpec, *, config: TransformerConfig) -> None:
    """Give a chunk's linears the adapters that peft has given the model's layers; they hold anything yet."""
    found = lora.adapters_of(model.base)
    tp = config.tensor_model_parallel_size
    for layer in chunk.decoder.layers:
        prefix = f"model.layers.{layer.layer_number - 1}."
        for megatron, row in LAYER.items():
            names = [one.removesuffix(".weight") for one in row.names]
            here = {one.rpartition(".")[2]: found[prefix + one] for one in names if prefix + one in found}
            if here:
                owner_name, _, attribute = megatron.removesuffix(".weight").rpartition(".")
                owner = layer.get_submodule(owner_name)
                base = getattr(owner, attribute)
                parts = 1 if isinstance(base, RowParallelLinear) else tp
                widths = {name: spec.linear_shapes[name][1] // parts for name in (n.rpartition(".")[2] for n in names)}
                rounds = spec.num_kv_heads // tp if row.joined == "by group" else 1
                adapted = lora.AdaptedLinear(base, here, widths=widths, rounds=rounds, config=config)
                setattr(owner, attribute, adapted)


@torch.no_grad()
def read_weights(tensors: Sequence[Held], model: UnloadedModel) -> None:
    """Fill everything that this rank holds; one tensor of the model is whole in memory at a time."""
    for held in tensors:
        held.parameter.detach().zero_()  # rows that fill the vocabulary up
        for name in held.names:
            held.fill(name, model.read(name))


def sizes_of(tensors: Sequence[Held]) -> dict[str, int]:
    """Number of parameters of each whole tensor that this rank trains something of."""
    trained = [held for held in tensors if held.parameter.requires_grad]
    return {one.name: math.prod(one.shape) for held in trained for one in held.segments}


def digest_of(tensors: Sequence[Held]) -> tuple[str, str]:
    """Which numbers of the trained tensors this rank holds, and the sum of their bits."""
    trained = [held for held in tensors if held.parameter.requires_grad]
    cuts = json.dumps([[(one.name, one.dim, one.low, one.high) for one in held.segments] for held in trained])
    return hashlib.sha256(cuts.encode()).hexdigest(), sums_of_bits(held.parameter for held in trained)


def whole_weights(tensors: Sequence[Held], model: Any, *, place: Place) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and whole weights in the order of the model, on rank 0's CPU; all ranks take part.

    Args:
        tensors: of this rank.
        model: the whole model, whose names count.
        place: of this rank.
    """
    rank = dist.get_rank()
    own = {name: held for held in tensors if place.speaks_for_weights and not held.replicated for name in held.names}
    described = {name: next(one for one in held.segments if one.name == name) for name, held in own.items()}
    holders = gather_objects({name: (one.dim, one.low, one.high) for name, one in described.items()})
    for name, parameter in model.named_parameters():
        cuts = {holder: of[name] for holder, of in enumerate(holders) if name in of}
        if rank in cuts and rank:
            dist.send(own[name].cut(name).contiguous(), dst=0)
        if rank == 0:
            yield name, _assembled(name, tuple(parameter.shape), cuts, own, like=tensors[0].parameter)


def _assembled(
    name: str,
    shape: tuple[int, ...],
    cuts: Mapping[int, tuple[int, int, int]],
    own: Mapping[str, Held],
    *,
    like: torch.Tensor,
) -> torch.Tensor:
    """One whole tensor in CPU memory, of the cuts of all ranks: dimension, first index and the one after the last."""
    whole = torch.empty(shape, dtype=like.dtype)
    for holder, (dim, low, high) in cuts.items():
        cut = own[name].cut(name) if holder == 0 else like.new_empty((*shape[:dim], high - low, *shape[dim + 1 :]))
        if holder:
            dist.recv(cut, src=holder)
        whole.narrow(dim, low, high - low).copy_(cut)
    return whole
