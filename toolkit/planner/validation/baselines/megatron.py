"""Megatron-LM's theoretical memory, with context parallelism as Megatron-Bridge divides it."""

import math

from toolkit.planner.setup import Setup

VOCAB_MULTIPLE = 128
"""The vocabulary is padded to this times tp: --make-vocab-size-divisible-by."""


def made_for(setup: Setup) -> bool:
    """Megatron's own runs of full training, not recomputing whole layers."""
    return setup.profile.name == "megatron" and setup.method == "full" and setup.checkpointing != "full"


def theoretical(setup: Setup) -> float | None:
    """report_theoretical_memory for sequence parallelism and selective recomputation, the most loaded shard."""
    if setup.method != "full":
        return None
    return states(setup) + activations(setup)


def states(setup: Setup) -> float:
    """compute_weight_and_optimizer_memory: 18 bytes per parameter, or 6 + 12 / dp with the distributed optimizer."""
    shape = setup.shape
    embedding = _padded_vocab(setup) * shape.hidden
    layers = shape.num_layers * (shape.layer_matmul + 2 * shape.hidden) + shape.hidden
    shard = layers / setup.pp + embedding
    if not shape.tied and setup.pp == 1:
        shard += embedding
    per_param = 18.0 if setup.zero_stage == 0 else 6.0 + 12.0 / (setup.dp * setup.cp)
    return shard / setup.tp * per_param


def activations(setup: Setup) -> float:
    """compute_activation_memory: Korthikanti et al. (2205.05198), table 2, of the first pipeline stage."""
    shape, pp = setup.shape, setup.pp
    tokens = setup.seq_len * setup.micro_batch
    kept = tokens * shape.hidden * (18.0 + 4.0 * shape.ffn / shape.hidden) * shape.num_layers
    kept += 8.0 * tokens * pp + float(tokens) * shape.hidden * pp
    if setup.vpp > 1:
        kept *= 1.0 + (pp - 1) / (pp * setup.vpp)
    elif pp > 1:
        kept *= min(1.0, setup.grad_accum / pp)
    if pp == 1:
        kept += tokens * shape.hidden * 4.0 * (1.0 + _padded_vocab(setup) / shape.hidden)
    return kept / setup.tp / setup.cp


def _padded_vocab(setup: Setup) -> int:
    multiple = VOCAB_MULTIPLE * setup.tp
    return math.ceil(setup.shape.vocab / multiple) * multiple
