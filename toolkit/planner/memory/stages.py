"""What a pipeline stage holds: layers, micro-batches in flight, parameters."""

import functools
from collections.abc import Sequence
from typing import Literal

from toolkit.planner.setup import Setup


@functools.lru_cache(maxsize=4096)
def split_layers(
    num_layers: int,
    pp: int,
    *,
    rule: Literal["even", "by_cost", "balanced"],
    head_cost: float = 0.0,
    last_at_least: int = 0,
) -> Sequence[int]:
    """Decoder layers of each stage.

    Args:
        num_layers: layers of the model.
        pp: stages.
        rule: `even` gives the first stages one layer more where the number does not divide, but both ends one less
            where that makes all others equal (Megatron's account_for_embedding_in_pipeline_split and
            account_for_loss_in_pipeline_split, core/transformer/transformer_block.py). `by_cost` walks through
            layers and head and starts the next stage after the block with which the running cost passes the
            stage's share, as nanotron does (nanotron/models/base.py, build_model). `balanced` makes the slowest stage
            as fast as can be, ours in DeepSpeed's pipeline.
        head_cost: cost of the head in layers; nothing to `even`.
        last_at_least: layers that the last stage gets whatever the head costs, for `balanced`.
    """
    if rule == "balanced":
        return _balanced(num_layers, pp, head_cost, last_at_least)
    if rule == "even":
        each, extra = divmod(num_layers, pp)
        if extra == pp - 2 > 0:
            return (each, *(each + 1,) * extra, each)
        return tuple(each + (stage < extra) for stage in range(pp))
    total, counts, stage = num_layers + head_cost, [0] * pp, 0
    for layer in range(1, num_layers + 1):
        counts[stage] += 1
        if layer > total * (stage + 1) / pp and stage < pp - 1:
            stage += 1
    return tuple(counts)


def _balanced(num_layers: int, pp: int, head_cost: float, last_at_least: int) -> tuple[int, ...]:
    """The least maximum over the stages of layers, and head on the last; the last alone may do without a layer.

    Of equally fast splits the one with the fewest layers on early stages, which hold the most micro-batches: the last
    takes what does not make it the slowest, and what does not divide over the others goes to the later of them.
    """
    if pp == 1:
        return (num_layers,)
    others = pp - 1

    def slowest(last: int) -> float:
        return max(-(-(num_layers - last) // others), last + head_cost)

    # With the head on it the last never takes more than an even share.
    last = min(range(min(-(-num_layers // pp), num_layers - others), last_at_least - 1, -1), key=slowest)
    each, extra = divmod(num_layers - last, others)
    return (*(each + (stage >= others - extra) for stage in range(others)), last)


def stage_layers(setup: Setup) -> Sequence[int]:
    """Decoder layers of each stage of a set-up."""
    if setup.stages:
        return setup.stages
    shape = setup.shape
    head_cost = shape.embedding_params / shape.layer_matmul
    return split_layers(
        shape.num_layers,
        setup.pp,
        rule=setup.profile.memory.split,
        head_cost=head_cost,
        last_at_least=last_at_least(setup),
    )


def bounds(setup: Setup, stage: int) -> tuple[int, int]:
    """Number of a stage's first decoder layer, and of the one after its last."""
    layers = stage_layers(setup)
    first = sum(layers[:stage])
    return first, first + layers[stage]


def last_at_least(setup: Setup) -> int:
    """Layers that the last stage needs: a stage without adapters would have nothing to train."""
    return 0 if setup.method == "full" else 1


def layers_in_flight(setup: Setup, stage: int) -> float:
    """Decoder layers times micro-batches whose activations a stage holds at its fullest.

    1F1B: pp - stage micro-batches of all its layers (2006.09503). Interleaved: 2 (pp - stage - 1) + (vpp - 1) pp + 1
    chunks of layers / vpp each (megatron/core/pipeline_parallel/schedules.py). Never more than there are.
    """
    return held_layers(setup, stage, layers=stage_layers(setup)[stage])


def held_layers(setup: Setup, stage: int, *, layers: int) -> float:
    """`layers_in_flight` of a stage of so many layers."""
    pp, vpp = setup.pp, setup.vpp
    if vpp == 1:
        return layers * min(pp - stage, setup.grad_accum)
    chunks = 2 * (pp - stage - 1) + (vpp - 1) * pp + 1
    return layers / vpp * min(chunks, setup.grad_accum * vpp)


def stage_params(setup: Setup, stage: int) -> tuple[int, int]:
    """(parameters of decoder layers, parameters of embedding, head and last norm) on one rank of a stage.

    A tied head on another stage than the embedding is a copy of its own.
    """
    shape, last = setup.shape, setup.pp - 1
    ends = shape.embedding_params if stage == 0 else 0
    if stage == last:
        ends += shape.hidden + (shape.embedding_params if last > 0 else shape.head_params)
    return stage_layers(setup)[stage] * shape.layer_params // setup.tp, ends // setup.tp


def stage_trained(setup: Setup, stage: int) -> tuple[int, int]:
    """`stage_params`, as far as they are trained in place: all with `full`, none beside adapters, or those chosen."""
    trained, last = setup.trained, setup.pp - 1
    if trained is None:
        return stage_params(setup, stage) if setup.method == "full" else (0, 0)
    counts = stage_layers(setup)
    first = sum(counts[:stage])
    ends = trained.embedding if stage == 0 else 0
    if stage == last:
        ends += trained.norm + (trained.embedding if setup.shape.tied and last > 0 else trained.head)
    return sum(trained.layers[first : first + counts[stage]]) // setup.tp, ends // setup.tp
