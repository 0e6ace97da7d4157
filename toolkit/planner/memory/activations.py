"""Tensors kept for the backward pass, logits, and what a layer at work adds."""

from typing import NamedTuple

from toolkit.planner.memory.stages import bounds, held_layers, stage_layers
from toolkit.planner.memory_law import LayerLaw
from toolkit.planner.setup import Setup, num_checkpointed, wide_bytes
from toolkit.specs.workload import loss_block

FUSED_MLP = 6.0
"""Bytes per element of the MLP with a fused SwiGLU, which keeps gate, up and its output and works in place (Liger)."""

AUTOCAST_HIDDEN = 10.0
"""Bytes per token and element of hidden_size that torch.autocast adds to a layer: residual stream and norms in fp32,
an input rounded anew for each of q, k, v, gate and up. Counted in what autograd saves of a LlamaDecoderLayer."""


def layer_bytes(setup: Setup) -> float:
    """What one decoder layer keeps of one micro-batch on one rank."""
    law = layer_law(setup)
    shape, tp = setup.shape, setup.tp
    inside = law.query * shape.query + law.key_value * key_value_width(setup)
    if not setup.tiled_mlp:
        ffn = min(law.ffn, FUSED_MLP) if setup.fused_mlp else law.ffn
        inside += ffn * shape.ffn * (1.0 if shape.gated else 2 / 3)
    if setup.method != "full":
        inside += setup.profile.memory.adapter_input * _adapter_inputs(setup)
    outside = law.hidden * shape.hidden / (tp if setup.tp_sequence else 1) + law.gathered_hidden * shape.hidden
    return setup.tokens * (inside / tp + outside) * element_factor(setup) + score_bytes(setup)


def key_value_width(setup: Setup) -> int:
    """Elements of keys per token as attention keeps them.

    With a mask transformers repeats keys and values to all heads (integrations/sdpa_attention.py, use_gqa_in_sdpa).
    """
    return setup.shape.query if setup.pads and setup.micro_batch > 1 else setup.shape.key_value


def score_bytes(setup: Setup) -> float:
    """Attention scores that one decoder layer keeps; flash attention keeps none."""
    if setup.flash_attention:
        return 0.0
    scores = setup.micro_batch * setup.shape.num_heads * setup.seq_len**2 / setup.tp / setup.cp
    return setup.profile.memory.scores * scores


class MicroBatch(NamedTuple):
    """Bytes that one micro-batch takes on one rank, whatever the stage."""

    kept: float
    """By each decoder layer until its backward pass, outside of the layer at work."""
    whole: float
    """By each one that is not checkpointed where only every so many are."""
    outside: float
    """Kept outside of the layers."""
    working: float
    """Added by the layer at work."""
    logits: float
    """Head and loss, where the stage has them."""


def micro_batch_bytes(setup: Setup) -> MicroBatch:
    """What follows from the tokens of a micro-batch; the search asks once for all stages and ZeRO stages."""
    shape = setup.shape
    tp, here = setup.tp if setup.tp_sequence else 1, 1.0 - setup.offloaded_activations
    if setup.checkpointing == "full":
        kept = here * setup.carried_bytes * shape.hidden * setup.tokens / tp
    else:
        kept = here * (layer_bytes(setup) - recomputed_bytes(setup))
    return MicroBatch(
        kept=kept,
        whole=layer_bytes(setup) if setup.checkpointing_every > 1 else 0.0,
        outside=outside_bytes(setup),
        working=working_bytes(setup),
        logits=logits_bytes(setup, setup.pp - 1),
    )


def outside_bytes(setup: Setup) -> float:
    """What one micro-batch keeps outside of the layers."""
    tp = setup.tp if setup.tp_sequence else 1
    return setup.profile.memory.outside_hidden * setup.shape.hidden * setup.tokens / tp * setup.carried_bytes / 2


def kept_bytes(setup: Setup, stage: int) -> float:
    """What all layers of a stage keep of all micro-batches in flight, outside of the layer at work."""
    return kept_in_flight(setup, micro_batch_bytes(setup), stage=stage, layers=stage_layers(setup)[stage])


def kept_in_flight(setup: Setup, one: MicroBatch, *, stage: int, layers: int) -> float:
    """`kept_bytes` from what one micro-batch takes and the number of layers of the stage."""
    if setup.checkpointing_every > 1:
        again = num_checkpointed(*bounds(setup, stage), every=setup.checkpointing_every)
        return in_flight(setup, stage) * (again * one.kept + (layers - again) * one.whole + one.outside)
    held = held_layers(setup, stage, layers=layers)
    if setup.checkpointing == "full":
        return one.kept * max(1.0, held) + one.outside
    return one.kept * held + one.outside * in_flight(setup, stage)


def freed_first(setup: Setup, one: MicroBatch, stage: int) -> float:
    """What is gone before a layer is computed again: the last layer of the stage, where that is not checkpointed."""
    last = bounds(setup, stage)[1] - 1
    return one.whole if last % setup.checkpointing_every else 0.0


def in_flight(setup: Setup, stage: int) -> int:
    """Micro-batches that a stage has begun and not finished, at its fullest."""
    return min(setup.pp - stage, setup.grad_accum)


def working_bytes(setup: Setup) -> float:
    """What the layer at work adds in the backward pass: gradients inside it, and all of it where it is recomputed."""
    law, shape = setup.profile.memory, setup.shape
    ffn = 0.0 if setup.tiled_mlp or setup.fused_mlp else law.working_ffn * shape.ffn / setup.tp
    added = setup.tokens * (ffn + law.working_hidden * shape.hidden) * element_factor(setup)
    if setup.checkpointing == "full":
        return added + layer_bytes(setup)
    return added + recomputed_bytes(setup)


def recomputed_bytes(setup: Setup) -> float:
    """What `selective` checkpointing does not keep of a layer: attention scores, and what the framework's policy drops.

    Source: arXiv 2205.05198, section 5: 34 s b h of 34 s b h + 5 a s^2 b are left; ours: `products_bytes`.
    """
    if setup.checkpointing != "selective":
        return 0.0
    if setup.profile.memory.products is not None:
        return layer_bytes(setup) - products_bytes(setup)
    scores = score_bytes(setup)
    return scores + (1 - setup.profile.memory.selective) * (layer_bytes(setup) - scores)


def products_bytes(setup: Setup) -> float:
    """What `selective` keeps of a layer that keeps its input and what products and attention give.

    Counted in what toolkit/models/selective.py keeps of a LlamaDecoderLayer.
    """
    law, shape, tp = setup.profile.memory.products, setup.shape, setup.tp
    assert law is not None
    # Attention that is written out is computed again; so is what ranks add up.
    query = law.query if setup.flash_attention else law.query / 2
    whole = law.hidden * shape.hidden if tp == 1 else 0.0
    inside = query * shape.query + law.key_value * shape.key_value
    inside += law.ffn * shape.ffn * (1.0 if shape.gated else 1 / 2)
    if setup.method != "full":
        inside += 2.0 * setup.lora_rank * len(setup.lora_targets)
    return setup.tokens * (setup.carried_bytes * shape.hidden + element_factor(setup) * (whole + inside / tp))


def logits_bytes(setup: Setup, stage: int) -> float:
    """Logits of one micro-batch with their copies and gradient, on the last stage.

    Under tensor parallelism each rank has its part of them where the loss works on parts (Megatron's, and ours in the
    ZeRO engine, which divides the head with DeepSpeed's VocabParallelLinear); else every rank gathers all.
    """
    if stage != setup.pp - 1:
        return 0.0
    law, shape = setup.profile.memory, setup.shape
    if setup.chunked_loss:
        return chunked_loss_bytes(setup)
    if setup.fused_loss:
        return law.fused_loss_hidden * shape.hidden * setup.tokens
    return law.logits_bytes * shape.vocab * setup.tokens / (setup.tp if law.vocab_parallel else 1)


def chunked_loss_bytes(setup: Setup) -> float:
    """What `loss: chunked` takes at its fullest, if every token is supervised (engines/ds/chunked.py, counted).

    A block of logits, in 16 bits with its copy in fp32; the hidden states as the loss takes them, their gradient in
    fp32 and what a block adds to it; the gradient of a head that is trained.
    """
    shape, tokens, width = setup.shape, setup.tokens, wide_bytes(setup.precision)
    columns = shape.vocab // setup.tp
    block, hidden = tokens * loss_block(tokens, columns), tokens * shape.hidden
    of_head = width * columns * shape.hidden if setup.method == "full" else 0.0
    if width == 4:
        return 4.0 * block + 12.0 * hidden + of_head
    return max(6.0 * block + 6.0 * hidden, 2.0 * block + 8.0 * hidden) + of_head


def element_factor(setup: Setup) -> float:
    """Bytes of an activation over the 16 bits that the laws are written for."""
    return wide_bytes(setup.precision) / 2


def layer_law(setup: Setup) -> LayerLaw:
    """What one decoder layer keeps, per token and element of each width, in the units of `element_factor`."""
    law = setup.profile.memory
    found = law.full if setup.method == "full" or law.frozen is None else law.frozen
    if setup.mixed == "autocast":
        return found.model_copy(update={"hidden": found.hidden + AUTOCAST_HIDDEN})
    return found


def _adapter_inputs(setup: Setup) -> int:
    """Input elements of the adapted linear layers of a decoder layer."""
    return setup.shape.adapter_inputs(setup.lora_targets, shared=setup.profile.memory.adapter_inputs_shared)
